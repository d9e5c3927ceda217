/**
 * What lies over a screen: dialogs, sheets and menus, each a native `<dialog>` with its own step in the history.
 *
 * The browser keeps the focus inside and gives it back; Escape, a tap beside it and going back close it. This file knows
 * no screen.
 */

import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { t } from "../model/i18n";
import { Icon, type IconName } from "./icons";
import { overlay } from "./router";

interface DialogProps {
  title: string;
  kind?: "sheet" | "dialog" | "full" | "photo";
  /** Whether the title is seen with a button that closes, seen alone, or only read out. */
  head?: "whole" | "title" | "none";
  onClose: () => void;
  children: ComponentChildren;
}

/** Close the dialog around *inside*. False: it was closed before, and what was clicked in it has been done. */
export function shut(inside: Element): boolean {
  const cancel = new Event("cancel", { cancelable: true });
  return inside.closest("dialog")?.dispatchEvent(cancel) === false;
}

export function Dialog({ title, kind = "dialog", head = "whole", onClose, children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  const close = useRef((): boolean => false);
  const gone = useRef(onClose);
  gone.current = onClose;
  const id = useId();
  useLayoutEffect(() => {
    const dialog = ref.current;
    const before = document.activeElement;
    dialog?.showModal();
    close.current = overlay(() => gone.current());
    return () => {
      close.current();
      dialog?.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus({ preventScroll: true });
    };
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape closes it too, by the browser itself.
    <dialog
      ref={ref}
      class={kind === "photo" ? "over over-full over-photo" : `over over-${kind}`}
      aria-labelledby={id}
      onCancel={(event) => {
        if (close.current()) event.preventDefault();
      }}
      onClick={(event) => {
        if (event.target === ref.current && kind !== "full" && kind !== "photo") close.current();
      }}
    >
      <div class="over-inside">
        <div class={{ whole: "over-head", title: "over-title", none: "sr-only" }[head]}>
          <h2 id={id}>{title}</h2>
          {head === "whole" && (
            <button type="button" class="icon-button" aria-label={t("common.close")} onClick={() => close.current()}>
              <Icon name="close" />
            </button>
          )}
        </div>
        {children}
      </div>
    </dialog>
  );
}

export interface Choice {
  icon: IconName;
  label: string;
  danger?: boolean;
  run: () => void;
}

/** A list of things to do; at the bottom on a phone. */
export function Menu({ title, choices, onClose }: { title: string; choices: Choice[]; onClose: () => void }) {
  const list = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => list.current?.querySelector("button")?.focus(), []);
  const move = (event: KeyboardEvent) => {
    const all = [...(list.current?.querySelectorAll("button") ?? [])];
    const at = all.indexOf(document.activeElement as HTMLButtonElement);
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    all[(at + by + all.length) % all.length]?.focus();
  };
  return (
    <Dialog title={title} kind="sheet" head="title" onClose={onClose}>
      <div class="menu" role="menu" ref={list} aria-label={title} onKeyDown={move}>
        {choices.map((each) => (
          <button
            key={each.label}
            type="button"
            role="menuitem"
            class={each.danger ? "menu-item danger" : "menu-item"}
            onClick={(event) => {
              if (shut(event.currentTarget)) each.run();
            }}
          >
            <Icon name={each.icon} />
            <span>{each.label}</span>
          </button>
        ))}
      </div>
    </Dialog>
  );
}

interface ConfirmProps {
  title: string;
  text: string;
  yes: string;
  danger?: boolean;
  onYes: () => void;
  onClose: () => void;
}

export function Confirm({ title, text, yes, danger = false, onYes, onClose }: ConfirmProps) {
  return (
    <Dialog title={title} onClose={onClose}>
      <p>{text}</p>
      <div class="over-actions">
        <button type="button" class="button button-quiet" onClick={(event) => shut(event.currentTarget)}>
          {t("common.cancel")}
        </button>
        <button
          type="button"
          class={danger ? "button button-danger" : "button"}
          onClick={(event) => {
            if (shut(event.currentTarget)) onYes();
          }}
        >
          {yes}
        </button>
      </div>
    </Dialog>
  );
}
