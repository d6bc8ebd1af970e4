"""A device in Python, written from docs/protocol.md alone: registers, keeps alive, answers calls, sends one alarm when asked.

Usage: device.py ws://host:port CODE SECRET      needs the package `websockets` (Debian: python3-websockets)
Prints one JSON line for each thing that happens.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import urllib.error
import urllib.parse
import urllib.request

import websockets

PATH = "/LAPI/V1.0/System/UpServer/Register"


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


def challenge(base):
    try:
        urllib.request.urlopen(base.replace("ws://", "http://") + PATH)
    except urllib.error.HTTPError as answer:
        if answer.code == 401:
            return json.loads(answer.read())["Nonce"]
        raise
    raise SystemExit("expected 401")


def query(code, secret, nonce):
    text = "/".join(["Uniview", "IPC", code, "HMAC-SHA256", nonce])
    sign = base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()).decode()
    return urllib.parse.urlencode(
        {
            "Vendor": "Uniview",
            "DeviceType": "IPC",
            "DeviceCode": code,
            "Algorithm": "HMAC-SHA256",
            "Nonce": nonce,
            "Cnonce": "pythonCnonce0001",
            "Sign": sign,
        }
    )


async def answer(socket, request, code):
    url = request["RequestURL"]
    reply = {"ResponseURL": url, "ResponseCode": 0, "ResponseString": "Succeed", "Cseq": request["Cseq"], "Data": {}}
    if url.endswith("/DeviceInfo"):
        reply["Data"] = {"DeviceName": "python", "DeviceCode": code, "Big": 9007199254740993}
    elif url.endswith("/Event/Subscription"):
        reply["Data"] = {"ID": 1, "CurrentTime": 1, "TerminationTime": 601}
    elif url.endswith("/Alarm/Test"):
        alarm = {"AlarmInfo": {"AlarmType": "MotionAlarmOn", "AlarmSeq": 7, "TimeStamp": 1735689600, "AlarmSrcID": 1}}
        notification = {"RequestURL": "/LAPI/V1.0/System/Event/Notification/Alarm", "Method": "POST", "Cseq": 500, "Data": alarm}
        await socket.send(json.dumps(notification))
    await socket.send(json.dumps(reply))


async def main(base, code, secret):
    uri = f"{base}{PATH}?{query(code, secret, challenge(base))}"
    async with websockets.connect(uri, compression=None, ping_interval=None) as socket:
        say("registered", ack=json.loads(await socket.recv()))
        await socket.send(json.dumps({"RequestURL": "/LAPI/V1.0/System/UpServer/Keepalive", "Method": "PUT", "Cseq": 3, "Data": {}}))
        async for text in socket:
            message = json.loads(text)
            say("message", message=message)
            if "RequestURL" in message:
                await answer(socket, message, code)


asyncio.run(main(*sys.argv[1:4]))
