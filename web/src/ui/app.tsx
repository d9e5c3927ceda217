/**
 * The app as a whole: which screen stands where, the theme and the language of the document, what passes by.
 *
 * On a phone one screen fills the window; on a wide one the list of chats stays beside it. This file knows every screen
 * and nothing of what they show.
 */

import "./styles/index.css";
import { useSignal, useSignalEffect } from "@preact/signals";
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { App, type EngineHandle, hasAccount } from "../model/app";
import { direction, locale, setLocale, t } from "../model/i18n";
import type { Platform } from "../platform";
import { InfoScreen, SafetyScreen } from "./chat_info";
import { ChatListScreen, SearchScreen, ShelfScreen } from "./chat_list";
import { AddScreen, ContactScreen } from "./contact";
import { AppContext, announced, say, toast, useApp } from "./context";
import { ConversationScreen } from "./conversation";
import { Pigeon } from "./pigeon";
import { go, parse, type Route, route, startRouter } from "./router";
import { SettingsScreen } from "./settings";
import { BrokenPage, DeletingPage, PhasePage, ReplacedPage } from "./status_pages";
import { WelcomeScreen } from "./welcome";

/** Show the app in *place*; the promise resolves when it stands. */
export async function show(place: HTMLElement, handle: EngineHandle, platform: Platform): Promise<App> {
  const app = new App(handle, platform);
  const opened = startRouter();
  if (opened?.includes("/i#")) app.keepInvitation(opened);
  else if (opened) app.keepLink(opened);
  followWindow();
  followLeave(app);
  navigator.serviceWorker?.addEventListener("message", ({ data }: MessageEvent<{ taube?: string; place?: string }>) => {
    if (data?.taube === "open" && data.place) go(parse(data.place));
  });
  let failed = false;
  try {
    await app.start();
  } catch {
    failed = true;
    await setLocale("en").catch(() => {});
  }
  const status = app.status.peek();
  if (status && hasAccount(status) && opened) {
    if (app.openedLink.peek() === opened) go({ name: "add" }, true);
    else if (!failed) say(t("error.link_is_invitation"));
  }
  place.replaceChildren();
  render(
    <AppContext.Provider value={app}>
      <Shell failed={failed} />
    </AppContext.Provider>,
    place,
  );
  return app;
}

function Shell({ failed }: { failed: boolean }) {
  return (
    <>
      <Document />
      {failed ? <BrokenPage /> : <Screens />}
      <Toast />
      <div class="sr-only" role="status" aria-live="polite">
        {announced.value}
      </div>
    </>
  );
}

function Screens() {
  const app = useApp();
  const status = app.status.value;
  const now = route.value;
  if (!status) return <Splash />;
  if (status.phase === "none" || app.shown.value === "welcome") return <WelcomeScreen />;
  if (status.phase === "replaced" && app.shown.value !== "history") return <ReplacedPage />;
  if (!hasAccount(status)) return <PhasePage status={status} />;
  if (status.phase === "ready" && status.deleting && !app.deletes.value) return <DeletingPage />;
  return (
    <main class={now.name === "list" ? "app app-list" : "app app-main"}>
      <ChatListScreen />
      <Main now={now} />
    </main>
  );
}

function Main({ now }: { now: Route }) {
  switch (now.name) {
    case "chat":
      return <ConversationScreen key={now.chat} id={now.chat} at={now.at} />;
    case "info":
      return <InfoScreen id={now.chat} />;
    case "safety":
      return <SafetyScreen id={now.chat} />;
    case "settings":
      return <SettingsScreen key={now.page} page={now.page} />;
    case "contact":
      return <ContactScreen />;
    case "add":
      return <AddScreen />;
    case "search":
      return <SearchScreen />;
    case "archived":
    case "requests":
      return <ShelfScreen key={now.name} kind={now.name} />;
    default:
      return (
        <section class="pane pane-main pane-blank" aria-label="Taube">
          <Pigeon size={200} />
          <p class="quiet">{t("list.choose")}</p>
        </section>
      );
  }
}

function Splash() {
  return (
    <div class="splash">
      <Pigeon size={140} />
    </div>
  );
}

/** Language, direction, theme, text size and unread count on the document itself. */
function Document() {
  const app = useApp();
  useSignalEffect(() => {
    const root = document.documentElement;
    root.lang = locale();
    root.dir = direction();
    root.dataset.theme = app.theme.value;
    root.style.fontSize = `${app.textSize.value}%`;
  });
  useSignalEffect(() => {
    const unread = app.unread.value;
    document.title = unread > 0 ? `(${unread}) Taube` : "Taube";
    const badge = navigator as { setAppBadge?: (count: number) => Promise<void>; clearAppBadge?: () => Promise<void> };
    if (unread > 0) badge.setAppBadge?.(unread).catch(() => {});
    else badge.clearAppBadge?.().catch(() => {});
  });
  return null;
}

function Toast() {
  const shown = toast.value;
  const visible = useSignal(false);
  useEffect(() => {
    visible.value = shown !== null;
  }, [shown]);
  if (!shown) return null;
  return (
    <div class={shown.tone === "bad" ? "toast toast-bad" : "toast"} popover="manual" ref={raise}>
      {shown.text}
    </div>
  );
}

/** Above dialogs too, where the browser can. */
function raise(element: HTMLElement | null): void {
  try {
    element?.showPopover();
  } catch {
    // Shown already, or a browser without popovers, which shows it in its place.
  }
}

/** The page is about to go, or to be hidden, which on a phone may be the last that it hears of. */
function followLeave(app: App): void {
  const leave = () => app.leave();
  addEventListener("beforeunload", leave); // the earliest, where a browser has it
  addEventListener("pagehide", leave);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") leave();
  });
}

/** The height that a keyboard leaves, for browsers that lay it over the page. */
function followWindow(): void {
  const view = window.visualViewport;
  if (!view) return;
  let asked = 0;
  const follow = () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => {
      if (view.scale > 1.01) return;
      const root = document.documentElement;
      root.style.setProperty("--window", `${Math.round(view.height)}px`);
      if (view.offsetTop > 0) window.scrollTo(0, 0);
    });
  };
  view.addEventListener("resize", follow);
  view.addEventListener("scroll", follow);
  follow();
}
