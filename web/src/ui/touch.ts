/** Gestures of a finger: press and hold, and the swipe that answers a message. Each has a button that does the same. */

import { useRef } from "preact/hooks";

const HOLD_MS = 450;
const CLICK_MS = 100;
const SLOP_PX = 10;
const SWIPE_PX = 56;
const SWIPE_PX_MOST = 80;

interface Handlers {
  onPointerDown: (event: PointerEvent) => void;
  onPointerMove: (event: PointerEvent) => void;
  onPointerUp: (event: PointerEvent) => void;
  onPointerCancel: (event: PointerEvent) => void;
}

export function useLongPress(run: () => void): Handlers {
  const held = useRef({ timer: 0, x: 0, y: 0 });
  const stop = () => clearTimeout(held.current.timer);
  return {
    onPointerDown: (event) => {
      stop();
      if (event.pointerType === "mouse") return;
      held.current.x = event.clientX;
      held.current.y = event.clientY;
      held.current.timer = window.setTimeout(() => {
        swallowClick();
        run();
      }, HOLD_MS);
    },
    onPointerMove: (event) => {
      const { x, y } = held.current;
      if (Math.abs(event.clientX - x) > SLOP_PX || Math.abs(event.clientY - y) > SLOP_PX) stop();
    },
    onPointerUp: stop,
    onPointerCancel: stop,
  };
}

/** The click that comes when the finger is lifted would fall upon what has opened under it. */
function swallowClick(): void {
  const swallow = (event: MouseEvent) => {
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  const end = () => {
    removeEventListener("pointerup", end, true);
    removeEventListener("pointercancel", end, true);
    setTimeout(() => removeEventListener("click", swallow, true), CLICK_MS);
  };
  addEventListener("click", swallow, true);
  addEventListener("pointerup", end, true);
  addEventListener("pointercancel", end, true);
}

/** A swipe from the start to the end of a line moves the row with the finger; far enough, *run* is called. */
export function useSwipe(run: () => void, buzz: () => void): Handlers {
  const swipe = useRef({ id: -1, x: 0, y: 0, moving: false, far: false });
  const settle = (event: PointerEvent) => {
    const row = event.currentTarget as HTMLElement;
    if (swipe.current.id !== event.pointerId) return;
    swipe.current.id = -1;
    if (!swipe.current.moving) return;
    row.classList.remove("swiping");
    row.style.removeProperty("--swipe");
    row.style.removeProperty("--swiped");
  };
  return {
    onPointerDown: (event) => {
      if (event.pointerType === "mouse" || !event.isPrimary) return;
      swipe.current = { id: event.pointerId, x: event.clientX, y: event.clientY, moving: false, far: false };
    },
    onPointerMove: (event) => {
      const state = swipe.current;
      if (state.id !== event.pointerId) return;
      const row = event.currentTarget as HTMLElement;
      const sign = getComputedStyle(row).direction === "rtl" ? -1 : 1;
      const dx = (event.clientX - state.x) * sign;
      const dy = Math.abs(event.clientY - state.y);
      if (!state.moving) {
        if (dy > SLOP_PX || dx < -SLOP_PX) state.id = -1;
        if (dx < SLOP_PX || dx < dy * 1.5) return;
        state.moving = true;
        row.classList.add("swiping");
        row.setPointerCapture(event.pointerId);
      }
      const moved = Math.max(0, Math.min(dx, SWIPE_PX_MOST));
      row.style.setProperty("--swipe", `${moved * sign}px`);
      row.style.setProperty("--swiped", String(Math.min(1, moved / SWIPE_PX)));
      const far = dx >= SWIPE_PX;
      if (far && !state.far) buzz();
      state.far = far;
    },
    onPointerUp: (event) => {
      const { moving, far, id } = swipe.current;
      settle(event);
      if (id === event.pointerId && moving && far) run();
    },
    onPointerCancel: settle,
  };
}
