/** One's own contact link with its QR code, and adding somebody by theirs: pasted, scanned, or opened. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { LinkInfo } from "../client/api";
import { failureOf } from "../model/failures";
import { t } from "../model/i18n";
import { linkIn } from "../model/links";
import { say, sentence, useApp } from "./context";
import { Icon } from "./icons";
import { Egg, Head, Name, Problem, Scene } from "./parts";
import { Code, Scanner } from "./qr";
import { go } from "./router";

export function ContactScreen() {
  const app = useApp();
  const me = app.status.value?.me;
  const link = me?.contactLink;
  return (
    <section class="pane pane-main" aria-label={t("contact.title")}>
      <Head title={t("contact.title")} home={{ name: "list" }} />
      <div class="scroll page">
        {me && link ? (
          <>
            <div class="calling-card">
              <Egg id={me.id} name={me.name} photo={me.photo} />
              <h2>
                <Name of={me.name} />
              </h2>
              <Code text={link} label={t("contact.code")} />
              <p class="quiet link-text" dir="ltr">
                {link}
              </p>
            </div>
            <p class="lead">{t("contact.text")}</p>
            <div class="stack">
              {app.platform.canShare() && (
                <button
                  type="button"
                  class="button"
                  onClick={() => app.platform.share({ title: "Taube", text: t("contact.invite"), url: link })}
                >
                  <Icon name="share" />
                  {t("common.share")}
                </button>
              )}
              <button
                type="button"
                class={app.platform.canShare() ? "button button-quiet" : "button"}
                onClick={async () => say(t((await app.platform.copy(link)) ? "common.copied" : "common.notCopied"))}
              >
                <Icon name="copy" />
                {t("contact.copy")}
              </button>
              <a class="button button-quiet" href="#/add">
                <Icon name="add" />
                {t("add.title")}
              </a>
            </div>
          </>
        ) : (
          <Scene mood="asleep" title={t("contact.none")} text={t("contact.noneText")} />
        )}
      </div>
    </section>
  );
}

export function AddScreen() {
  const app = useApp();
  const link = useSignal(app.openedLink.peek());
  const info = useSignal<LinkInfo | null>(null);
  const problem = useSignal("");
  const scanning = useSignal(false);
  const busy = useSignal(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => app.keepLink(""), []);
  useEffect(() => {
    const text = link.value;
    const wanted = linkIn(text) || text.trim();
    if (!wanted) return;
    let here = true;
    const isWanted = () => here && link.peek() === text;
    const stop = app.platform.later(120, async () => {
      try {
        const found = await app.engine.inspectLink(wanted);
        if (!isWanted()) return;
        if (found.kind === "invitation") problem.value = t("error.link_is_invitation");
        else if (found.chat) go({ name: "chat", chat: found.chat, at: 0 }, true);
        else info.value = found;
      } catch (error) {
        if (isWanted()) problem.value = sentence(failureOf(error));
      }
    });
    return () => {
      here = false;
      stop();
    };
  }, [link.value]);
  /** Another text in the field: what was found by the one before, or wrong with it, is not said of this one. */
  const put = (text: string) => {
    if (text === link.peek()) return;
    link.value = text;
    info.value = null;
    problem.value = "";
  };
  const add = async () => {
    if (busy.peek()) return;
    busy.value = true;
    problem.value = "";
    try {
      const chat = await app.engine.add(linkIn(link.value) || link.value.trim());
      app.put(chat);
      go({ name: "chat", chat: chat.id, at: 0 }, true);
    } catch (error) {
      problem.value = sentence(failureOf(error));
    } finally {
      busy.value = false;
    }
  };
  return (
    <section class="pane pane-main" aria-label={t("add.title")}>
      <Head title={t("add.title")} home={{ name: "list" }} />
      <div class="scroll page">
        <p class="lead">{t("add.text")}</p>
        <form
          class="stack"
          noValidate
          onSubmit={(event) => {
            event.preventDefault();
            if (info.value) add();
            else {
              if (!link.value.trim()) problem.value = t("link.empty");
              field.current?.focus();
            }
          }}
        >
          <button
            type="button"
            class={info.value ? "button button-quiet" : "button"}
            onClick={() => (scanning.value = true)}
          >
            <Icon name="scan" />
            {t("add.scan")}
          </button>
          <label class="label">
            {t("add.link")}
            <input
              ref={field}
              class="field"
              type="url"
              inputMode="url"
              autoComplete="off"
              spellcheck={false}
              dir="ltr"
              placeholder="https://…/c#…"
              value={link.value}
              aria-invalid={problem.value !== ""}
              aria-describedby={problem.value ? "add-problem" : undefined}
              onInput={(event) => put(event.currentTarget.value)}
              onPaste={(event) => {
                const found = linkIn(event.clipboardData?.getData("text") ?? "");
                if (!found) return;
                event.preventDefault();
                put(found);
              }}
            />
          </label>
          {problem.value && <Problem id="add-problem" text={problem.value} />}
          {info.value && (
            <div class="found-person" role="status">
              <Egg id={info.value.account ?? ""} name={info.value.name} photo={null} />
              <p>{t("add.found", { name: info.value.name || t("add.someone") })}</p>
            </div>
          )}
          {info.value && (
            <button type="submit" class="button" disabled={busy.value}>
              {t(busy.value ? "add.adding" : "add.start")}
            </button>
          )}
        </form>
        <p class="hint">{t("add.hint")}</p>
        <a class="button button-quiet" href="#/contact">
          <Icon name="code" />
          {t("list.showLink")}
        </a>
      </div>
      {scanning.value && (
        <Scanner
          title={t("add.scan")}
          hint={t("add.scanText")}
          onCode={(text) => {
            scanning.value = false;
            put(text);
          }}
          onClose={() => (scanning.value = false)}
        />
      )}
    </section>
  );
}
