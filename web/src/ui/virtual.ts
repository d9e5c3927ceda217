/** A virtual list that sticks to its end, as a hook: only the rows in sight (and one that has the focus) are in the document. */

import {
  defaultRangeExtractor,
  elementScroll,
  observeElementOffset,
  observeElementRect,
  type Range,
  Virtualizer,
} from "@tanstack/virtual-core";
import type { RefObject } from "preact";
import { useLayoutEffect, useReducer, useRef } from "preact/hooks";

interface Wanted {
  count: number;
  keyOf: (index: number) => string;
  estimate: (index: number) => number;
  scroller: RefObject<HTMLElement | null>;
  /** The row that stays mounted although it is out of sight; -1: none. */
  kept: number;
  /** Where the list begins, before anything was measured: the first rows to be made are those that are seen. */
  begin: (heightPx: number) => number;
  /** After every change of what is in sight. */
  onChange: () => void;
}

export type Rows = Virtualizer<HTMLElement, HTMLElement>;

const END_PX = 80;
const OVERSCAN = 4;

export function useRows(wanted: Wanted): Rows {
  const [, rerender] = useReducer((count: number, _: null) => count + 1, 0);
  const latest = useRef(wanted);
  latest.current = wanted;
  const made = useRef<Rows | null>(null);
  const options = {
    count: wanted.count,
    getItemKey: wanted.keyOf,
    estimateSize: wanted.estimate,
    anchorTo: "end" as const,
    followOnAppend: true,
    scrollEndThreshold: END_PX,
    overscan: OVERSCAN,
    getScrollElement: () => latest.current.scroller.current,
    scrollToFn: elementScroll,
    observeElementRect,
    observeElementOffset,
    rangeExtractor: (range: Range) => {
      const { kept, count } = latest.current;
      const rows = defaultRangeExtractor(range);
      if (kept >= 0 && kept < count && !rows.includes(kept)) rows.push(kept);
      return rows.sort((a, b) => a - b);
    },
    onChange: () => {
      rerender(null);
      latest.current.onChange();
    },
  };
  if (made.current) made.current.setOptions(options);
  else {
    const height = window.innerHeight;
    made.current = new Virtualizer<HTMLElement, HTMLElement>({
      ...options,
      initialRect: { width: window.innerWidth, height },
      initialOffset: () => wanted.begin(height),
    });
  }
  const rows = made.current;
  useLayoutEffect(() => rows._didMount(), []);
  useLayoutEffect(() => rows._willUpdate());
  return rows;
}
