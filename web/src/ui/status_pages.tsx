/** Pages for when there is no going on: the account was taken over, deleted, thrown away by the browser, or is unreadable. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import type { Status } from "../client/api";
import { failureOf } from "../model/app";
import { t } from "../model/i18n";
import { say, sentence, useApp } from "./context";
import { Problem, Scene } from "./parts";
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

export function PhasePage({ status }: { status: Status }) {
  if (status.phase === "evicted")
    return (
      <StatusPage mood="puzzled" title={t("evicted.title")} text={t("evicted.text")}>
        <p class="hint">{t("evicted.why")}</p>
        <StartAgain />
      </StatusPage>
    );
  if (status.phase === "unreadable") {
    const newer = status.failure?.code === "newer";
    return (
      <StatusPage
        mood="puzzled"
        title={t(newer ? "newer.title" : "unreadable.title")}
        text={t(newer ? "newer.text" : "unreadable.text")}
      >
        {status.failure && !newer && <Problem text={sentence(status.failure)} />}
        <button type="button" class="button" onClick={() => location.reload()}>
          {t("common.reload")}
        </button>
      </StatusPage>
    );
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
  return (
    <StatusPage mood="puzzled" title={t("broken.title")} text={t("broken.text")}>
      <button type="button" class="button" onClick={() => location.reload()}>
        {t("common.reload")}
      </button>
    </StatusPage>
  );
}
