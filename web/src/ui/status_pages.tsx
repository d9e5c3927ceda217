/** Pages for when there is no going on: the account was taken over, is (being) deleted, thrown away by the browser, or unreadable. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import type { ErrorCode, Status } from "../client/api";
import { failureOf } from "../model/failures";
import { type Key, t } from "../model/i18n";
import { say, sentence, useApp } from "./context";
import { Scene } from "./parts";
import { LanguagePicker } from "./welcome";

function StatusPage({
  mood,
  title,
  text,
  children,
}: {
  mood: "plain" | "asleep" | "puzzled";
  title: string;
  text: string;
  children?: ComponentChildren;
}) {
  return (
    <main class="welcome">
      <div class="welcome-bar">
        <LanguagePicker />
      </div>
      <h1 class="sr-only">Taube</h1>
      <Scene mood={mood} title={title} text={text}>
        {children}
      </Scene>
    </main>
  );
}

export function ReplacedPage() {
  const app = useApp();
  const busy = useSignal(false);
  return (
    <StatusPage mood="puzzled" title={t("replaced.title")} text={t("replaced.text")}>
      <button
        type="button"
        class="button"
        disabled={busy.value}
        onClick={async () => {
          if (busy.peek()) return;
          busy.value = true;
          try {
            await app.takeOver();
            app.shown.value = "";
          } catch (error) {
            say(sentence(failureOf(error)), "bad");
          } finally {
            busy.value = false;
          }
        }}
      >
        {t(busy.value ? "replaced.busy" : "replaced.use")}
      </button>
      <button type="button" class="button button-quiet" onClick={() => (app.shown.value = "history")}>
        {t("replaced.read")}
      </button>
      <p class="hint">{t("replaced.hint")}</p>
    </StatusPage>
  );
}

/** Nobody here knows whether the account is deleted: this page stands until the server tells, and says if it is not. */
export function DeletingPage() {
  const app = useApp();
  useEffect(
    () => () => {
      const status = app.status.peek();
      if (status?.phase === "ready" && !status.deleting) say(t("deleting.not"));
    },
    [],
  );
  return <StatusPage mood="asleep" title={t("deleting.title")} text={t("deleting.text")} />;
}

/** What is said where the store cannot be opened: title and text, by why. */
const CLOSED: Partial<Record<ErrorCode, [title: Key, text: Key]>> = {
  newer: ["newer.title", "newer.text"],
  damaged: ["unreadable.title", "unreadable.text"],
  storage: ["shut.title", "shut.text"],
};
const BROKEN: [Key, Key] = ["broken.title", "broken.text"];

export function PhasePage({ status }: { status: Status }) {
  if (status.phase === "evicted")
    return (
      <StatusPage mood="puzzled" title={t("evicted.title")} text={t("evicted.text")}>
        <p class="hint">{t("evicted.why")}</p>
        <StartAgain />
      </StatusPage>
    );
  if (status.phase === "unreadable") {
    const [title, text] = (status.failure && CLOSED[status.failure.code]) ?? BROKEN;
    return <ReloadPage title={t(title)} text={t(text)} />;
  }
  return (
    <StatusPage mood="asleep" title={t("deleted.title")} text={t("deleted.text")}>
      <StartAgain />
    </StatusPage>
  );
}

function StartAgain() {
  const app = useApp();
  return (
    <button type="button" class="button" onClick={() => (app.shown.value = "welcome")}>
      {t("common.startAgain")}
    </button>
  );
}

/** The engine did not start. */
export function BrokenPage() {
  const [title, text] = BROKEN;
  return <ReloadPage title={t(title)} text={t(text)} />;
}

function ReloadPage({ title, text }: { title: string; text: string }) {
  return (
    <StatusPage mood="puzzled" title={title} text={text}>
      <button type="button" class="button" onClick={() => location.reload()}>
        {t("common.reload")}
      </button>
    </StatusPage>
  );
}
