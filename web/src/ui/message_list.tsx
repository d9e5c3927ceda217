/**
 * The messages of a chat as a virtual list: days, the line before what is unread, the way to the end, rows by keyboard.
 *
 * One row of the list is one message with whatever stands above it. Only rows in sight are in the document. Where one is
 * in the list is said to the model, which decides what counts as read and what is loaded.
 */

import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Chat, Message } from "../client/api";
import type { Conversation } from "../model/conversation";
import { day, daysBetween, locale, number, t } from "../model/i18n";
import { announce, useApp } from "./context";
import { Icon } from "./icons";
import { MessageRow } from "./message";
import { Scene } from "./parts";
import { useRows } from "./virtual";
import { spoken, titleOf } from "./words";

const GROUP_MS = 5 * 60_000;
const EDGE_ROWS = 20;
const FAR_PX = 240;
const NEAR_PX = 80;
const FLASH_MS = 1_600;
const DAY_MS = 1_200;
/** The list finds its place by a row's index: nothing is put in before it has. */
const SETTLE_MS = 160;

interface Props {
  chat: Chat;
  conversation: Conversation;
  onMenu: (message: Message) => void;
  onPhoto: (message: Message) => void;
}

export function MessageList({ chat, conversation, onMenu, onPhoto }: Props) {
  const app = useApp();
  const scroller = useRef<HTMLDivElement>(null);
  const messages = conversation.messages.value;
  const focused = useSignal("");
  const far = useSignal(false);
  const flashing = useSignal("");
  const floating = useSignal("");
  const placed = useRef(false);
  const settling = useRef(() => {});
  const settled = useRef(false);
  const touched = useRef(false);
  const wanted = useRef("");
  const end = useRef({ reached: !conversation.target.peek(), moved: false });
  const count = messages.length;
  const kept = focused.value ? messages.findIndex((each) => conversation.keyOf(each) === focused.value) : -1;
  const rows = useRows({
    count,
    scroller,
    kept,
    keyOf: (index) => {
      const message = messages[index];
      return message ? conversation.keyOf(message) : String(index);
    },
    estimate: (index) => estimate(messages[index]),
    begin: (heightPx) => {
      const target = conversation.target.peek();
      const at = target ? messages.findIndex((each) => each.n >= target.n) : -1;
      const above = at >= 0 ? messages.slice(0, at) : messages;
      const px = above.reduce((sum, each) => sum + estimate(each), 0);
      return Math.max(0, at >= 0 ? px : px - heightPx);
    },
    onChange: () => look(),
  });

  const look = () => {
    const range = rows.range;
    const element = scroller.current;
    if (!range || !element || !placed.current) return;
    const list = conversation.messages.peek();
    far.value = conversation.after.peek() || rows.getDistanceFromEnd() > FAR_PX;
    const top = list[range.startIndex];
    if (top) conversation.stands(top.n, end.current.reached);
    const label = top && rows.isScrolling && touched.current ? day(top.sentAtMs, app.platform.now()) : "";
    if (label) floating.value = label;
    if (settled.current) {
      if (range.startIndex < EDGE_ROWS) conversation.older();
      if (range.endIndex > list.length - EDGE_ROWS) conversation.newer();
    }
    if (document.visibilityState !== "visible") return;
    const bottom = element.scrollTop + element.clientHeight;
    for (let index = Math.min(range.endIndex, list.length - 1); index >= range.startIndex; index -= 1) {
      const item = rows.measurementsCache[index];
      const message = list[index];
      if (item && message && item.end <= bottom + 24) {
        conversation.seen(message.n);
        break;
      }
    }
  };

  const settle = () => {
    settled.current = false;
    settling.current();
    settling.current = app.platform.later(SETTLE_MS, () => {
      settled.current = true;
      look();
    });
  };

  useLayoutEffect(() => {
    if (placed.current || count === 0) return;
    placed.current = true;
    if (!conversation.target.peek()) rows.scrollToEnd();
    settle();
    look();
  }, [count > 0]);

  // a keyboard that comes, a photo that loads, a window that turns: who is at the end stays there, until they leave it
  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element?.firstElementChild) return;
    const left = () => element.scrollHeight - element.clientHeight - element.scrollTop;
    const onScroll = () => {
      if (left() < NEAR_PX) end.current.reached = true;
      else if (end.current.moved) end.current.reached = false;
    };
    const sizes = new ResizeObserver(() => {
      if (!end.current.reached || (end.current.moved && rows.isScrolling) || left() < 1) return;
      end.current.moved = false; // what scrolls now is the list itself
      rows.scrollToEnd();
    });
    sizes.observe(element);
    sizes.observe(element.firstElementChild);
    element.addEventListener("scroll", onScroll, { passive: true });
    return () => {
      sizes.disconnect();
      element.removeEventListener("scroll", onScroll);
    };
  }, [count > 0]);
  // whoever answers a message stays where they read, whatever the answer and the keyboard take of the room
  useEffect(() => {
    let known = conversation.answers.peek();
    return conversation.answers.subscribe((answers) => {
      const element = scroller.current;
      if (element && answers > known)
        end.current.reached = element.scrollHeight - element.clientHeight - element.scrollTop < 1;
      known = answers;
    });
  }, [conversation]);
  const onMove = () => {
    touched.current = true;
    end.current.moved = true;
  };

  useSignalEffect(() => {
    const target = conversation.target.value;
    if (!target) return;
    const follows = target.added === true && placed.current && rows.isAtEnd();
    queueMicrotask(() => {
      if (conversation.target.peek() !== target) return;
      conversation.target.value = null;
      settle();
      end.current.reached = target.n === Number.MAX_SAFE_INTEGER;
      if (follows) return; // a list that stands at its end stays there
      const list = conversation.messages.peek();
      if (target.n === Number.MAX_SAFE_INTEGER) {
        rows.scrollToEnd();
        return;
      }
      const index = list.findIndex((each) => each.n >= target.n);
      const message = list[index];
      if (!message) {
        rows.scrollToEnd();
        return;
      }
      rows.scrollToIndex(index, { align: target.flash ? "center" : "start" });
      if (!target.flash) return;
      flashing.value = conversation.keyOf(message);
      focusRow(index);
      app.platform.later(FLASH_MS, () => (flashing.value = ""));
    });
  });

  useSignalEffect(() => {
    const message = conversation.arrived.value;
    if (message) announce(spoken(message));
  });

  useEffect(() => {
    const seen = () => look();
    document.addEventListener("visibilitychange", seen);
    return () => document.removeEventListener("visibilitychange", seen);
  }, []);

  useEffect(() => look(), [messages, chat.state, chat.unread]);

  useEffect(() => {
    if (!floating.value) return;
    return app.platform.later(DAY_MS, () => (floating.value = ""));
  }, [floating.value, rows.isScrolling]);

  const focusRow = (index: number) => {
    const message = conversation.messages.peek()[index];
    if (!message) return;
    wanted.current = conversation.keyOf(message);
    focused.value = wanted.current;
  };

  // by its key: messages that are put in above change the number of a row, and the row that has the focus stays mounted
  useLayoutEffect(() => {
    if (!wanted.current) return;
    const row = scroller.current?.querySelector<HTMLElement>(`[data-key="${CSS.escape(wanted.current)}"]`);
    if (!row) return;
    wanted.current = "";
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  });

  const onKeyDown = (event: KeyboardEvent) => {
    end.current.moved = true;
    const row = (event.target as HTMLElement).closest<HTMLElement>("[data-index]");
    if (!row) return;
    const at = Number(row.dataset.index);
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: count - 1, PageUp: at - 8, PageDown: at + 8 }[
      event.key
    ];
    if (to !== undefined) {
      event.preventDefault();
      focusRow(Math.max(0, Math.min(count - 1, to)));
      return;
    }
    const message = conversation.messages.peek()[at];
    if (event.target !== row || !message) return;
    if (event.key === "Enter" || event.key === " " || event.key === "ContextMenu") {
      event.preventDefault();
      onMenu(message);
    }
  };

  if (count === 0)
    return (
      <div class="messages-frame messages-none">
        <Scene mood="letter" title={t("chat.empty", { name: titleOf(chat) })} text={t("chat.emptyText")} />
      </div>
    );
  const items = rows.getVirtualItems();
  const first = items[0];
  const now = app.platform.now();
  const tabStop = kept >= 0 ? kept : count - 1;
  const whole = !conversation.before.value && !conversation.after.value;
  return (
    <div class="messages-frame">
      <div
        class="messages scroll"
        ref={scroller}
        role="log"
        aria-live="off"
        aria-label={t("chat.messages")}
        tabIndex={-1}
        onKeyDown={onKeyDown}
        onWheel={onMove}
        onTouchMove={onMove}
        onPointerDown={(event) => {
          if (event.target === scroller.current) end.current.moved = true; // its scroll bar
        }}
        onFocusIn={(event) => {
          const row = (event.target as HTMLElement).closest<HTMLElement>("[data-index]");
          const message = row && conversation.messages.peek()[Number(row.dataset.index)];
          if (message) focused.value = conversation.keyOf(message);
        }}
      >
        <div class="messages-space" style={{ height: `${rows.getTotalSize()}px` }}>
          <ul class="messages-rows">
            {items.map((item) => {
              const message = messages[item.index];
              if (!message) return null;
              const above = messages[item.index - 1];
              const below = messages[item.index + 1];
              const newDay = !above || daysBetween(above.sentAtMs, message.sentAtMs) !== 0;
              const unread = conversation.divider.value;
              const divider = unread > 0 && firstUnread(message, above, unread, conversation.before.value);
              return (
                <li
                  key={item.key}
                  ref={rows.measureElement}
                  data-index={item.index}
                  data-key={item.key}
                  class={conversation.keyOf(message) === flashing.value ? "row-place flash" : "row-place"}
                  tabIndex={item.index === tabStop ? 0 : -1}
                  aria-setsize={whole ? count : -1}
                  aria-posinset={item.index + 1}
                  aria-label={spoken(message)}
                  style={{ transform: `translateY(${item.start}px)` }}
                >
                  {newDay && (
                    <div class="day">
                      <span>{day(message.sentAtMs, now)}</span>
                    </div>
                  )}
                  {divider && (
                    <div class="divider">
                      <span>{t("chat.newMessages")}</span>
                    </div>
                  )}
                  <MessageRow
                    message={message}
                    conversation={conversation}
                    first={newDay || divider || !joins(above, message)}
                    last={
                      !joins(message, below) || (below ? daysBetween(message.sentAtMs, below.sentAtMs) !== 0 : true)
                    }
                    group={chat.kind === "group"}
                    shut={chat.state === "open" ? null : chat.state === "blocked" ? "file.blocked" : "file.closed"}
                    words={locale()}
                    onMenu={onMenu}
                    onPhoto={onPhoto}
                  />
                </li>
              );
            })}
          </ul>
        </div>
      </div>
      {floating.value && first && (
        <div class="day day-floating" aria-hidden="true">
          <span>{floating.value}</span>
        </div>
      )}
      {far.value && (
        <button
          type="button"
          class="jump"
          onClick={() => conversation.toEnd()}
          aria-label={
            conversation.below.value ? t("chat.jumpNew", { count: conversation.below.value }) : t("chat.jump")
          }
        >
          <Icon name="down" />
          {conversation.below.value > 0 && <span class="badge">{number(conversation.below.value)}</span>}
        </button>
      )}
    </div>
  );
}

/** *before*: there are older ones than the first row. */
function firstUnread(message: Message, above: Message | undefined, n: number, before: boolean): boolean {
  if (message.n < n || message.n === Number.MAX_SAFE_INTEGER) return false;
  return above ? above.n < n : message.n === n || !before;
}

/** Whether two messages stand together as one person's. */
function joins(one: Message | undefined, other: Message | undefined): boolean {
  return (
    one !== undefined &&
    other !== undefined &&
    one.sender === other.sender &&
    isBubble(one) &&
    isBubble(other) &&
    other.sentAtMs - one.sentAtMs < GROUP_MS
  );
}

function isBubble(message: Message): boolean {
  return message.kind !== "notice" && message.kind !== "gap";
}

function estimate(message: Message | undefined): number {
  if (!message) return 48;
  if (message.kind === "media") return 260;
  const lines = Math.min(24, Math.ceil(message.text.length / 34));
  return 26 + Math.max(1, lines) * 22 + (message.reply ? 54 : 0);
}
