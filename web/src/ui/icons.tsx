/** The app's own icons: strokes on a grid of 24, drawn in the colour of the text around them. */

const PATHS = {
  back: "M15 5l-7 7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5L20 20",
  more: "M12 5.5v.01M12 12v.01M12 18.5v.01",
  send: "M4.5 12L20 4.5 15.5 20l-3.6-6.2zM11.9 13.8L20 4.5",
  attach: "M12 5v14M5 12h14",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 2.5-2.5L20 17M15.5 8.5v.01",
  file: "M6 3.500h8l4 4v13H6zM14 3.500v4h4",
  camera: "M4 8h3.5L9 5.5h6L16.5 8H20v11H4zM12 10a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 0 0 0-6.4z",
  reply: "M9 6l-5 5 5 5M4.5 11H14a6 6 0 0 1 6 6v1",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  retry: "M19 12a7 7 0 1 1-2-5M17.5 3v4.5H13",
  down: "M6 10l6 6 6-6M12 16V4",
  pin: "M9 4h6l-.8 6L17 13H7l2.8-3zM12 13v7",
  mute: "M6 16V11a6 6 0 0 1 9.5-4.9M18 11v5H8M5 20L19 4M10.5 19a1.7 1.7 0 0 0 3 0",
  bell: "M6 16v-5a6 6 0 0 1 12 0v5l1.5 1h-15zM10.5 19.5a1.7 1.7 0 0 0 3 0",
  archive: "M4 5h16v4H4zM5.5 9v10h13V9M10 13h4",
  block: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM6.5 6.5l11 11",
  shield: "M12 3.5l7 2.5v5.5c0 4.3-2.9 7.2-7 9-4.1-1.8-7-4.7-7-9V6zM9 11.8l2.2 2.2 4-4.2",
  gear: "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM10 5.6L10.5 3.1L13.5 3.1L14 5.6L15.1 6.1L17.2 4.7L19.3 6.8L17.9 8.9L18.4 10L20.9 10.5L20.9 13.5L18.4 14L17.9 15.1L19.3 17.2L17.2 19.3L15.1 17.9L14 18.4L13.5 20.9L10.5 20.9L10 18.4L8.9 17.9L6.8 19.3L4.7 17.2L6.1 15.1L5.6 14L3.1 13.5L3.1 10.5L5.6 10L6.1 8.9L4.7 6.8L6.8 4.7L8.9 6.1z",
  add: "M10 5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM3.5 19.5c.6-3.4 3.2-5 6.5-5 1.4 0 2.7.3 3.8.9M18 14v6M15 17h6",
  scan: "M4 8V4h4M16 4h4v4M20 16v4h-4M8 20H4v-4M4 12h16",
  code: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h2v2M20 14v3h-3M14 19v1h2M19 20h1",
  share: "M12 15V4M8 7.500L12 3.500l4 4M6 11H5v9h14v-9h-1",
  download: "M12 4v11M8 11.500l4 4 4-4M5 20h14",
  clock: "M12 5a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM12 8.500V12l2.5 1.5",
  warning: "M12 4L21 19.500H3zM12 10v4.500M12 17v.01",
  check: "M5 12.500l4.5 4.500L19 7.5",
  language: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM4.3 12h15.400M12 4c5 5.3 5 10.7 0 16M12 4c-5 5.3-5 10.7 0 16",
  person: "M12 4.500a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4.5 20c.8-3.6 3.7-5 7.5-5s6.7 1.4 7.5 5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.500v2M12 19.500v2M2.5 12h2M19.5 12h2M5.3 5.300l1.4 1.400M17.3 17.300l1.4 1.400M5.3 18.700l1.4-1.400M17.3 6.700l1.4-1.4",
  box: "M4 7.500L12 4l8 3.500v9L12 20l-8-3.500zM4 7.500l8 3.5 8-3.500M12 11v9",
  eye: "M3 12c2.3-4 5.3-6 9-6s6.7 2 9 6c-2.3 4-5.3 6-9 6s-6.7-2-9-6zM12 9.500a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z",
  info: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 11v5M12 8v.01",
  trash: "M5 7h14M9 7V4.500h6V7M7 7l1 13h8l1-13M10.5 10.500v6M13.5 10.500v6",
  edit: "M5 19l1-4L16 5l3 3L9 18zM13.5 7.500l3 3",
  forward: "M9 5l7 7-7 7",
  unpin: "M9 4h6l-.8 6L17 13H7l2.8-3zM12 13v7M4 4l16 16",
} as const;

export type IconName = keyof typeof PATHS;

const MIRRORED: ReadonlySet<IconName> = new Set<IconName>(["back", "forward", "send", "reply"]);

export function Icon({ name, size = 24 }: { name: IconName; size?: number }) {
  return (
    <svg
      class={MIRRORED.has(name) ? "icon icon-mirrored" : "icon"}
      width={size}
      height={size}
      viewBox="0 0 24 24"
      aria-hidden="true"
      focusable="false"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The ticks of one's own message: a clock, one, two, two filled; drawn small, told by the text beside them. */
export function Ticks({ state }: { state: "queued" | "kept" | "delivered" | "read" | "failed" | "received" }) {
  if (state === "received") return null;
  return (
    <svg class={`ticks ticks-${state}`} viewBox="0 0 20 14" width="20" height="14" aria-hidden="true" focusable="false">
      {state === "queued" && <path d="M10 1.500a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM10 4v3.200l2.2 1.3" />}
      {state === "failed" && <path d="M10 1.500a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM10 4v3.600M10 9.800v.01" />}
      {state === "kept" && <path d="M5.5 7.500l3 3L15 3.5" />}
      {(state === "delivered" || state === "read") && <path d="M1.5 7.500l3 3L11 3.500M8.5 9.800l.8.700L16 3.5" />}
    </svg>
  );
}
