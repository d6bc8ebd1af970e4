/** Where a camera looks. A start command moves it until a stop command, at a speed of Para1 degrees per second; positions are
 *  worked out when somebody asks, so a moving camera costs nothing. Pure; command codes are those of protocol 12. */

export interface View {
  /** 0..360, wraps. */
  readonly panDegrees: number;
  /** −90..90. */
  readonly tiltDegrees: number;
  /** 1..30. */
  readonly zoom: number;
  /** 0..100. */
  readonly focus: number;
}

interface Motion {
  readonly pan: number;
  readonly tilt: number;
  readonly zoom: number;
  readonly focus: number;
}

export interface PtzState {
  readonly view: View;
  /** Units per second while moving. */
  readonly motion: Motion | undefined;
  readonly sinceMs: number;
}

const STILL: Motion = { pan: 0, tilt: 0, zoom: 0, focus: 0 };

const STARTS: ReadonlyMap<number, Motion> = new Map([
  [1026, { ...STILL, tilt: 1 }],
  [1028, { ...STILL, tilt: -1 }],
  [1284, { ...STILL, pan: -1 }],
  [1282, { ...STILL, pan: 1 }],
  [1794, { ...STILL, pan: -1, tilt: 1 }],
  [1796, { ...STILL, pan: -1, tilt: -1 }],
  [2050, { ...STILL, pan: 1, tilt: 1 }],
  [2052, { ...STILL, pan: 1, tilt: -1 }],
  [770, { ...STILL, zoom: 1 }],
  [772, { ...STILL, zoom: -1 }],
  [514, { ...STILL, focus: -1 }],
  [516, { ...STILL, focus: 1 }],
]);

const STOPS: ReadonlySet<number> = new Set([1025, 1027, 1281, 1283, 2305]);

const SLOWEST = 1;
const FASTEST = 8;

export const HOME: PtzState = {
  view: { panDegrees: 0, tiltDegrees: 0, zoom: 1, focus: 50 },
  motion: undefined,
  sinceMs: 0,
};

/** Undefined for a command that is not in the table. */
export function command(state: PtzState, code: number, speed: number, nowMs: number): PtzState | undefined {
  const view = viewAt(state, nowMs);
  if (STOPS.has(code)) return { view, motion: undefined, sinceMs: nowMs };
  const direction = STARTS.get(code);
  if (direction === undefined) return undefined;
  const factor = Math.min(FASTEST, Math.max(SLOWEST, speed));
  const motion = {
    pan: direction.pan * factor,
    tilt: direction.tilt * factor,
    zoom: direction.zoom * factor,
    focus: direction.focus * factor,
  };
  return { view, motion, sinceMs: nowMs };
}

export function viewAt(state: PtzState, nowMs: number): View {
  const { view, motion } = state;
  if (motion === undefined) return view;
  const seconds = Math.max(0, nowMs - state.sinceMs) / 1000;
  const pan = (view.panDegrees + motion.pan * seconds) % 360;
  return {
    panDegrees: pan < 0 ? pan + 360 : pan,
    tiltDegrees: within(-90, view.tiltDegrees + motion.tilt * seconds, 90),
    zoom: within(1, view.zoom + motion.zoom * seconds, 30),
    focus: within(0, view.focus + motion.focus * seconds, 100),
  };
}

function within(lowest: number, value: number, highest: number): number {
  return Math.min(highest, Math.max(lowest, value));
}
