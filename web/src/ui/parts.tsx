/** Small parts that several screens share: the egg with a face, the head of a screen, a row of settings, a switch. */

import { useSignal } from "@preact/signals";
import { Component, type ComponentChildren, type ComponentType, type FunctionComponent, h } from "preact";
import { useEffect, useId, useLayoutEffect, useRef } from "preact/hooks";
import { initials } from "../model/format";
import { clean, t } from "../model/i18n";
import { Icon, type IconName } from "./icons";
import { Pigeon } from "./pigeon";
import { back, type Route } from "./router";

/** Rendered again only when a property changes. */
export function memo<P extends object>(inner: FunctionComponent<P>): ComponentType<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const old = this.props as Record<string, unknown>;
      return Object.entries(next).some(([name, value]) => old[name] !== value);
    }
    override render() {
      return h(inner as FunctionComponent<object>, this.props);
    }
  };
}

/** The address of *blob* for an image; given back when it is not shown any more. */
export function useObjectUrl(blob: Blob | null): string | null {
  const url = useSignal<string | null>(null);
  useLayoutEffect(() => {
    if (!blob) {
      url.value = null;
      return;
    }
    const made = URL.createObjectURL(blob);
    url.value = made;
    return () => URL.revokeObjectURL(made);
  }, [blob]);
  return url.value;
}

const HUES = 8;

/** A picture, or initials on a colour that always is the same for an id. */
export function Egg({
  id,
  name,
  photo,
  size = "m",
}: {
  id: string;
  name: string;
  photo: Blob | null;
  size?: "s" | "m" | "l";
}) {
  const url = useObjectUrl(photo);
  const broken = useSignal(false);
  const hue = (Number.parseInt(id.slice(0, 6), 16) || 0) % HUES;
  return (
    <span class={`egg egg-${size} egg-${hue}`} aria-hidden="true">
      {url && !broken.value ? (
        <img src={url} alt="" onError={() => (broken.value = true)} />
      ) : (
        <span>{initials(name) || <Icon name="person" size={size === "l" ? 48 : 24} />}</span>
      )}
    </span>
  );
}

/** Somebody's name, kept from turning the text around it. */
export function Name({ of }: { of: string }) {
  return <bdi class="name">{clean(of)}</bdi>;
}

/** The head of a screen: a way back, its title, what one can do. The title gets the focus when the screen opens. */
export function Head({ title, home, children }: { title: string; home: Route; children?: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus({ preventScroll: true }), []);
  return (
    <header class="head">
      <BackButton home={home} />
      <h1 class="head-title" tabIndex={-1} ref={heading}>
        {title}
      </h1>
      {children}
    </header>
  );
}

export function BackButton({ home }: { home: Route }) {
  return (
    <button type="button" class="icon-button back" aria-label={t("common.back")} onClick={() => back(home)}>
      <Icon name="back" />
    </button>
  );
}

interface RowProps {
  icon?: IconName;
  title: string;
  text?: string | undefined;
  danger?: boolean;
  href?: string;
  onClick?: () => void;
  children?: ComponentChildren;
}

/** One line of a list of settings: a link, a button, or a fact. */
export function Row({ icon, title, text, danger = false, href, onClick, children }: RowProps) {
  const inside = (
    <>
      {icon && <Icon name={icon} />}
      <span class="row-words">
        <span class="row-title">{title}</span>
        {text && <span class="row-text">{text}</span>}
      </span>
      {children}
      {href && <Icon name="forward" size={18} />}
    </>
  );
  const look = danger ? "row danger" : "row";
  if (href)
    return (
      <a class={look} href={href}>
        {inside}
      </a>
    );
  if (onClick)
    return (
      <button type="button" class={look} onClick={onClick}>
        {inside}
      </button>
    );
  return <div class={look}>{inside}</div>;
}

export function Switch({
  icon,
  title,
  text,
  on,
  onChange,
}: {
  icon?: IconName;
  title: string;
  text?: string;
  on: boolean;
  onChange: (on: boolean) => void;
}) {
  const id = useId();
  return (
    <button
      type="button"
      class="row"
      role="switch"
      aria-checked={on}
      aria-describedby={text ? id : undefined}
      aria-label={title}
      onClick={() => onChange(!on)}
    >
      {icon && <Icon name={icon} />}
      <span class="row-words">
        <span class="row-title">{title}</span>
        {text && (
          <span class="row-text" id={id}>
            {text}
          </span>
        )}
      </span>
      <span class="switch" aria-hidden="true" />
    </button>
  );
}

/** A drawing, a sentence, and what to do: for whatever is empty, waits or failed. */
export function Scene({
  mood,
  title,
  text,
  children,
}: {
  mood: "plain" | "letter" | "asleep" | "puzzled";
  title: string;
  text?: string;
  children?: ComponentChildren;
}) {
  return (
    <div class="scene">
      <Pigeon mood={mood} />
      <h2>{title}</h2>
      {text && <p>{text}</p>}
      {children && <div class="scene-actions">{children}</div>}
    </div>
  );
}

/** Why something was not done; it comes into sight, however far down a small screen it stands. */
export function Problem({ text, id }: { text: string; id?: string }) {
  const place = useRef<HTMLParagraphElement>(null);
  useEffect(() => place.current?.scrollIntoView({ block: "nearest" }), [text]);
  return (
    <p class="problem" role="alert" id={id} ref={place}>
      <Icon name="warning" size={20} />
      <span>{text}</span>
    </p>
  );
}
