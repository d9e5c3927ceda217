/** The way in: a promise in one sentence, an invitation that is opened, pasted or scanned, a name, a picture. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { LinkInfo } from "../client/api";
import { failureOf } from "../model/failures";
import { LOCALES, type Locale, locale, t } from "../model/i18n";
import { linkIn } from "../model/links";
import { InstallCard } from "./cards";
import { say, sentence, useApp } from "./context";
import { Icon } from "./icons";
import { Problem } from "./parts";
import { Pigeon } from "./pigeon";
import { Scanner } from "./qr";
import { go, overlay, route } from "./router";
import { ProfileForm } from "./settings";

type StepName = "start" | "link" | "none" | "name";

export function WelcomeScreen() {
  const app = useApp();
  const step = useSignal<StepName>("start");
  const link = useSignal("");
  const info = useSignal<LinkInfo | null>(null);
  const problem = useSignal("");
  const busy = useSignal(false);
  const heading = useRef<HTMLHeadingElement>(null);
  const leave = useRef(() => {});
  const deeper = (to: StepName) => {
    if (step.value === "start") leave.current = overlay(() => (step.value = "start"));
    step.value = to;
  };
  const open = async (text: string) => {
    const wanted = linkIn(text) || text.trim();
    if (!wanted) {
      problem.value = t("link.empty");
      return;
    }
    problem.value = "";
    busy.value = true;
    try {
      const found = await app.engine.inspectLink(wanted);
      if (found.kind === "contact") {
        app.keepLink(wanted);
        problem.value = t("welcome.contactFirst");
        deeper("link");
        return;
      }
      link.value = wanted;
      info.value = found;
      app.keepInvitation(link.value);
      deeper("name");
    } catch (error) {
      app.keepInvitation("");
      link.value = wanted;
      const failure = failureOf(error);
      problem.value = failure.code === "link_malformed" ? t("link.malformed") : sentence(failure);
      deeper("link");
    } finally {
      busy.value = false;
    }
  };
  useEffect(() => {
    const opened = app.invitation.peek();
    if (opened) open(opened);
  }, []);
  useEffect(() => {
    if (step.value !== "start") heading.current?.focus();
  }, [step.value]);
  const waiting = app.openedLink.value.includes("/c#");
  const join = async (name: string, photo: Blob | null) => {
    if (busy.peek()) return;
    busy.value = true;
    problem.value = "";
    const kept = app.openedLink.peek();
    try {
      await app.join(link.value, name, photo);
      if (route.value.name === "list") go(kept ? { name: "add" } : { name: "list" }, true);
    } catch (error) {
      const failure = failureOf(error);
      if (failure.code.startsWith("invitation_")) app.keepInvitation("");
      problem.value = sentence(failure);
    } finally {
      busy.value = false;
    }
  };
  return (
    <main class="welcome">
      <div class="welcome-bar">
        {step.value !== "start" && (
          <button type="button" class="icon-button back" aria-label={t("common.back")} onClick={() => leave.current()}>
            <Icon name="back" />
          </button>
        )}
        <LanguagePicker />
      </div>
      {step.value === "start" && (
        <div class="welcome-page">
          <Pigeon mood="letter" size={220} />
          <h1 class="welcome-title" tabIndex={-1} ref={heading}>
            Taube
          </h1>
          <p class="promise">{t("welcome.promise")}</p>
          {waiting && (
            <p class="note">
              <Icon name="info" size={20} />
              <span>{t("welcome.contactFirst")}</span>
            </p>
          )}
          <div class="stack">
            <button type="button" class="button" onClick={() => deeper("link")}>
              {t("welcome.have")}
            </button>
            <button type="button" class="button button-quiet" onClick={() => deeper("none")}>
              {t("welcome.haveNot")}
            </button>
          </div>
        </div>
      )}
      {step.value === "link" && (
        <LinkStep
          link={link.value}
          problem={problem.value}
          busy={busy.value}
          heading={heading}
          onOpen={open}
          onNone={() => (step.value = "none")}
        />
      )}
      {step.value === "none" && (
        <div class="welcome-page">
          <Pigeon mood="puzzled" />
          <h1 tabIndex={-1} ref={heading}>
            {t("none.title")}
          </h1>
          <p>{t("none.text")}</p>
          <ol class="plain-list">
            <li>{t("none.friend")}</li>
            <li>{t("none.operator", { server: location.host })}</li>
            <li>{t("none.own")}</li>
          </ol>
          <button type="button" class="button" onClick={() => (step.value = "link")}>
            {t("welcome.have")}
          </button>
        </div>
      )}
      {step.value === "name" && (
        <div class="welcome-page">
          <h1 tabIndex={-1} ref={heading}>
            {t("join.title")}
          </h1>
          <p>{t("join.text", { server: info.value?.server.replace(/^https?:\/\//, "") ?? "" })}</p>
          <ProfileForm
            name=""
            photo={null}
            label={t(busy.value ? "join.busy" : "join.do")}
            busy={busy.value}
            refused={problem.value}
            onDone={join}
          />
          <InstallCard />
        </div>
      )}
    </main>
  );
}

interface LinkStepProps {
  link: string;
  problem: string;
  busy: boolean;
  heading: { current: HTMLHeadingElement | null };
  onOpen: (link: string) => void;
  onNone: () => void;
}

function LinkStep({ link, problem, busy, heading, onOpen, onNone }: LinkStepProps) {
  const written = useSignal(link);
  const scanning = useSignal(false);
  const title = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    heading.current = title.current;
    title.current?.focus();
  }, []);
  return (
    <div class="welcome-page">
      <h1 tabIndex={-1} ref={title}>
        {t("link.title")}
      </h1>
      <p>{t("link.text")}</p>
      <form
        class="stack"
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          onOpen(written.value);
        }}
      >
        <button type="button" class="button button-quiet" onClick={() => (scanning.value = true)}>
          <Icon name="scan" />
          {t("link.scan")}
        </button>
        <label class="label">
          {t("link.label")}
          <input
            class="field"
            type="url"
            inputMode="url"
            autoComplete="off"
            spellcheck={false}
            dir="ltr"
            placeholder="https://…/i#…"
            value={written.value}
            aria-invalid={problem !== ""}
            aria-describedby={problem ? "link-problem" : undefined}
            onInput={(event) => (written.value = event.currentTarget.value)}
            onPaste={(event) => {
              const found = linkIn(event.clipboardData?.getData("text") ?? "");
              if (!found) return;
              event.preventDefault();
              written.value = found;
              onOpen(found);
            }}
          />
        </label>
        {problem && <Problem id="link-problem" text={problem} />}
        <button type="submit" class="button" disabled={busy}>
          {t("common.next")}
        </button>
        <button type="button" class="link-button" onClick={onNone}>
          {t("welcome.haveNot")}
        </button>
      </form>
      {scanning.value && (
        <Scanner
          title={t("link.scan")}
          hint={t("link.scanText")}
          onCode={(text) => {
            scanning.value = false;
            onOpen(text);
          }}
          onClose={() => (scanning.value = false)}
        />
      )}
    </div>
  );
}

export function LanguagePicker() {
  const app = useApp();
  return (
    <label class="language-picker">
      <Icon name="language" size={20} />
      <span class="sr-only">{t("settings.language")}</span>
      <select
        value={locale()}
        onChange={async (event) => {
          if (!(await app.chooseLocale(event.currentTarget.value as Locale))) say(t("language.failed"), "bad");
        }}
      >
        {Object.entries(LOCALES).map(([each, name]) => (
          <option key={each} value={each} lang={each}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}
