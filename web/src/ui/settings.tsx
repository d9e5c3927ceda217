/** Settings: profile, notifications, appearance, language, storage, what the server knows, about, and the way out. */

import { useSignal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";
import type { Fact } from "../client/api";
import { TEXT_SIZES, type Theme } from "../model/app";
import { failureOf } from "../model/failures";
import { has, type Key, LOCALES, type Locale, locale, percent, size, t } from "../model/i18n";
import { InstallCard } from "./cards";
import { say, sentence, useApp } from "./context";
import { Icon, type IconName } from "./icons";
import { Egg, Head, Name, Problem, Row, Scene, useObjectUrl } from "./parts";
import { Pigeon } from "./pigeon";
import { go, hrefOf, type SettingsPage } from "./router";

const PAGES: [SettingsPage, IconName][] = [
  ["notifications", "bell"],
  ["appearance", "sun"],
  ["language", "language"],
  ["storage", "box"],
  ["server", "eye"],
  ["about", "info"],
];

export function SettingsScreen({ page }: { page: SettingsPage }) {
  const title = t(page ? `settings.${page}` : "settings.title");
  return (
    <section class="pane pane-main" aria-label={title} key={page}>
      <Head title={title} home={page ? { name: "settings", page: "" } : { name: "list" }} />
      <div class="scroll page">{screen(page)}</div>
    </section>
  );
}

function screen(page: SettingsPage) {
  switch (page) {
    case "profile":
      return <Profile />;
    case "notifications":
      return <Notifications />;
    case "appearance":
      return <Appearance />;
    case "language":
      return <Language />;
    case "storage":
      return <Storage />;
    case "server":
      return <Server />;
    case "about":
      return <About />;
    case "delete":
      return <Delete />;
    default:
      return <Overview />;
  }
}

function Overview() {
  const app = useApp();
  const me = app.status.value?.me;
  const push = app.status.value?.push;
  const words: Partial<Record<SettingsPage, string>> = {
    notifications: push ? t(`push.${push.state}`) : "",
    appearance: t(`theme.${app.theme.value}`),
    language: LOCALES[locale()],
  };
  return (
    <>
      {me && (
        <a class="me" href={hrefOf({ name: "settings", page: "profile" })}>
          <Egg id={me.id} name={me.name} photo={me.photo} />
          <span class="row-words">
            <span class="row-title me-name">
              <Name of={me.name} />
            </span>
            <span class="row-text">{t("settings.profileText")}</span>
          </span>
          <Icon name="forward" size={18} />
        </a>
      )}
      <div class="card-list">
        <Row icon="code" title={t("contact.title")} href="#/contact" />
      </div>
      <div class="card-list">
        {PAGES.map(([page, icon]) => (
          <Row
            key={page}
            icon={icon}
            title={t(`settings.${page}` as Key)}
            text={words[page]}
            href={hrefOf({ name: "settings", page })}
          />
        ))}
      </div>
      <InstallCard />
      <div class="card-list">
        <Row icon="trash" danger title={t("settings.delete")} href={hrefOf({ name: "settings", page: "delete" })} />
      </div>
    </>
  );
}

/** A name and a picture: in the settings, and when an account is made. *refused*: why that was not done, in words. */
export function ProfileForm({
  name,
  photo,
  label,
  busy,
  refused = "",
  onDone,
}: {
  name: string;
  photo: Blob | null;
  label: string;
  busy: boolean;
  refused?: string;
  onDone: (name: string, photo: Blob | null) => void;
}) {
  const { platform } = useApp();
  const id = useId();
  const field = useRef<HTMLInputElement>(null);
  const written = useSignal(name);
  const chosen = useSignal<Blob | null>(photo);
  const problem = useSignal("");
  const photoProblem = useSignal("");
  const url = useObjectUrl(chosen.value);
  const take = async (file: File | undefined) => {
    if (!file) return;
    photoProblem.value = "";
    try {
      chosen.value = await platform.portrait(file);
    } catch (error) {
      photoProblem.value = sentence(failureOf(error));
    }
  };
  return (
    <form
      class="stack"
      onSubmit={(event) => {
        event.preventDefault();
        const wanted = written.value.trim();
        if (wanted) return onDone(wanted, chosen.value);
        problem.value = t("error.name_empty");
        field.current?.focus();
      }}
    >
      <label class="profile-photo">
        <span class="egg egg-l egg-0">
          {url ? <img src={url} alt={t("profile.photo")} /> : <Icon name="camera" size={40} />}
        </span>
        <span class="link-button">{t(chosen.value ? "profile.otherPhoto" : "profile.addPhoto")}</span>
        <input
          class="sr-only"
          type="file"
          accept="image/*"
          aria-invalid={photoProblem.value !== ""}
          aria-describedby={photoProblem.value ? `${id}-photo-problem` : undefined}
          onChange={(event) => {
            take(event.currentTarget.files?.[0]);
            event.currentTarget.value = "";
          }}
        />
      </label>
      {photoProblem.value && <Problem id={`${id}-photo-problem`} text={photoProblem.value} />}
      {chosen.value && (
        <button type="button" class="link-button" onClick={() => (chosen.value = null)}>
          {t("profile.noPhoto")}
        </button>
      )}
      <label class="label" for={id}>
        {t("profile.name")}
      </label>
      <input
        id={id}
        ref={field}
        class="field"
        name="name"
        autoComplete="nickname"
        maxLength={60}
        dir="auto"
        value={written.value}
        aria-invalid={problem.value !== ""}
        aria-describedby={problem.value ? `${id}-problem` : `${id}-hint`}
        onInput={(event) => {
          written.value = event.currentTarget.value;
          problem.value = "";
        }}
      />
      <p class="hint" id={`${id}-hint`}>
        {t("profile.hint")}
      </p>
      {problem.value ? <Problem id={`${id}-problem`} text={problem.value} /> : refused && <Problem text={refused} />}
      <button type="submit" class="button" disabled={busy}>
        {label}
      </button>
    </form>
  );
}

function Profile() {
  const app = useApp();
  const busy = useSignal(false);
  const me = app.status.value?.me;
  if (!me) return null;
  return (
    <ProfileForm
      name={me.name}
      photo={me.photo}
      label={t("common.save")}
      busy={busy.value}
      onDone={async (name, photo) => {
        if (busy.peek()) return;
        busy.value = true;
        try {
          await app.setProfile(name, photo);
          say(t("profile.saved"));
          go({ name: "settings", page: "" }, true);
        } catch (error) {
          say(sentence(failureOf(error)), "bad");
        } finally {
          busy.value = false;
        }
      }}
    />
  );
}

function Notifications() {
  const app = useApp();
  const busy = useSignal(false);
  const push = app.status.value?.push;
  if (!push) return null;
  const act = async (run: () => Promise<void>) => {
    if (busy.peek()) return;
    busy.value = true;
    try {
      await run();
    } catch (error) {
      say(sentence(failureOf(error)), "bad");
    } finally {
      busy.value = false;
    }
  };
  const good = push.state === "on";
  return (
    <>
      <div class={`state-box ${good ? "state-good" : push.state === "off" ? "" : "state-bad"}`}>
        <Icon name={good ? "bell" : push.state === "off" ? "mute" : "warning"} size={28} />
        <div>
          <h2>{t(`push.${push.state}`)}</h2>
          <p>{t(`push.${push.state}Text`)}</p>
          {push.state === "broken" && push.why && <p>{t(`push.why.${push.why}`)}</p>}
        </div>
      </div>
      {(push.state === "off" || push.state === "broken") && (
        <button type="button" class="button" disabled={busy.value} onClick={() => act(() => app.turnPushOn())}>
          {t(push.state === "broken" ? "common.again" : "push.turnOn")}
        </button>
      )}
      {(good || push.state === "broken") && (
        <button
          type="button"
          class="button button-quiet"
          disabled={busy.value}
          onClick={() => act(() => app.turnPushOff())}
        >
          {t("push.turnOff")}
        </button>
      )}
      {push.state === "install" && <InstallCard />}
      <p class="hint">{t("push.private")}</p>
      <p class="hint">{t("push.perChat")}</p>
    </>
  );
}

function Appearance() {
  const app = useApp();
  return (
    <>
      <fieldset class="choices">
        <legend>{t("theme.title")}</legend>
        {(["system", "light", "dark"] satisfies Theme[]).map((each) => (
          <label key={each} class="choice">
            <input
              type="radio"
              name="theme"
              checked={app.theme.value === each}
              onChange={() => app.chooseTheme(each)}
            />
            <span>{t(`theme.${each}`)}</span>
          </label>
        ))}
      </fieldset>
      <fieldset class="choices">
        <legend>{t("theme.textSize")}</legend>
        {TEXT_SIZES.map((each) => (
          <label key={each} class="choice">
            <input
              type="radio"
              name="text-size"
              checked={app.textSize.value === each}
              onChange={() => app.chooseTextSize(each)}
            />
            <span>{percent(each / 100)}</span>
          </label>
        ))}
      </fieldset>
      <div class="sample" aria-hidden="true">
        <p class="bubble bubble-text">{t("theme.sample")}</p>
      </div>
    </>
  );
}

export function Language() {
  const app = useApp();
  return (
    <fieldset class="choices">
      <legend>{t("settings.language")}</legend>
      {(Object.keys(LOCALES) as Locale[]).map((each) => (
        <label key={each} class="choice">
          <input
            type="radio"
            name="language"
            checked={locale() === each}
            onChange={async () => {
              if (!(await app.chooseLocale(each))) say(t("language.failed"), "bad");
            }}
          />
          <span lang={each} dir="auto">
            {LOCALES[each]}
          </span>
        </label>
      ))}
    </fieldset>
  );
}

function Storage() {
  const app = useApp();
  const use = useSignal<{ used: number; most: number } | null>(null);
  const kept = useSignal(app.status.value?.persisted ?? false);
  useEffect(() => {
    app.platform.storage().then((found) => (use.value = found));
  }, []);
  return (
    <>
      <div class={`state-box ${kept.value ? "state-good" : "state-bad"}`}>
        <Icon name={kept.value ? "check" : "warning"} size={28} />
        <div>
          <h2>{t(kept.value ? "storage.kept" : "storage.notKept")}</h2>
          <p>{t(kept.value ? "storage.keptText" : "storage.notKeptText")}</p>
        </div>
      </div>
      {!kept.value && (
        <button
          type="button"
          class="button"
          onClick={async () => {
            kept.value = await app.platform.keepStorage();
            if (!kept.value) say(t("storage.refused"));
          }}
        >
          {t("storage.ask")}
        </button>
      )}
      {!kept.value && <InstallCard />}
      {use.value && (
        <Row
          icon="box"
          title={t("storage.used", { size: size(use.value.used) })}
          text={t("storage.most", { size: size(use.value.most) })}
        />
      )}
      <p class="hint">{t("storage.encrypted")}</p>
    </>
  );
}

/** Entries of the server's ledger that it never stores, and those of which it cannot tell whose they are: no answer of
 * its names them. Source: docs/privacy-ledger.md. */
const IN_MEMORY = ["live connection", "network address", "budgets", "waking"];
const OF_NOBODY = ["gate", "blob", "invitation"];

function Server() {
  const app = useApp();
  const facts = useSignal<Fact[] | null>(null);
  const problem = useSignal("");
  const isOffline = app.status.value?.connection.state === "offline";
  const ask = () => {
    app.engine.knows().then(
      (found) => (facts.value = found),
      (error) => (problem.value = sentence(failureOf(error))),
    );
  };
  useEffect(() => {
    if (isOffline) problem.value = t("error.offline");
    else if (!facts.value) ask();
  }, [isOffline]);
  if (!facts.value && problem.value)
    return (
      <>
        <Problem text={problem.value} />
        <button
          type="button"
          class="button"
          onClick={() => {
            problem.value = "";
            ask();
          }}
        >
          {t("common.again")}
        </button>
      </>
    );
  if (!facts.value) return <p class="hint">{t("knows.asking")}</p>;
  const entries = new Map<string, string[]>();
  for (const each of facts.value) entries.set(each.entry, [...(entries.get(each.entry) ?? []), each.value]);
  return (
    <>
      <p class="lead">{t("knows.text")}</p>
      {[...entries].map(([entry, values]) => (
        <details class="fact" key={entry}>
          <summary>
            <FactWords entry={entry} />
          </summary>
          <ul>
            {values.map((each, at) => (
              <li key={at} dir="ltr">
                {each}
              </li>
            ))}
          </ul>
        </details>
      ))}
      <h2 class="group-title">{t("knows.memory")}</h2>
      <p class="hint">{t("knows.memoryText")}</p>
      <Untold entries={IN_MEMORY} />
      <h2 class="group-title">{t("knows.nobody")}</h2>
      <p class="hint">{t("knows.nobodyText")}</p>
      <Untold entries={OF_NOBODY} />
      <h2 class="group-title">{t("knows.not")}</h2>
      <p class="hint">{t("knows.notText")}</p>
      <button
        type="button"
        class="button button-quiet"
        onClick={async () => {
          const done = await app.platform.copy(JSON.stringify(facts.value, null, 2));
          say(t(done ? "common.copied" : "common.notCopied"));
        }}
      >
        <Icon name="copy" />
        {t("knows.copy")}
      </button>
    </>
  );
}

/** What an entry is called, and why the server has it. */
function FactWords({ entry }: { entry: string }) {
  return (
    <span class="row-words">
      <span class="fact-name">{knows(entry, "") || entry}</span>
      <span class="row-text">{knows(entry, ".why")}</span>
    </span>
  );
}

function Untold({ entries }: { entries: string[] }) {
  return (
    <>
      {entries.map((each) => (
        <div class="fact fact-untold" key={each}>
          <FactWords entry={each} />
        </div>
      ))}
    </>
  );
}

/** The words on an entry of the server's ledger; empty for one that this build does not know. */
function knows(entry: string, suffix: "" | ".why"): string {
  const key = `knows.entry.${entry.replaceAll(" ", "_")}${suffix}`;
  if (has(key)) return t(key as Key);
  return suffix ? t("knows.newer") : "";
}

function About() {
  const app = useApp();
  const build = useSignal("");
  const published = useSignal("");
  useEffect(() => {
    app.platform.build().then((hash) => (build.value = hash));
    app.platform.published().then((hash) => (published.value = hash));
  }, []);
  return (
    <>
      <div class="portrait">
        <Pigeon />
        <h2>Taube</h2>
        <p>{t("about.promise")}</p>
      </div>
      <div class="card-list">
        <Row icon="box" title={t("about.build")} text={build.value || t("about.unbuilt")} />
        {build.value && published.value && published.value !== build.value && (
          <Row icon="box" title={t("about.other")} text={published.value} />
        )}
        <Row icon="language" title={t("about.server")} text={app.status.value?.me?.server ?? location.origin} />
        <Row icon="person" title={t("about.id")} text={app.status.value?.me?.id} />
      </div>
      <p class="hint">{t("about.buildText")}</p>
      <p class="hint">{t("about.licence")}</p>
    </>
  );
}

function Delete() {
  const app = useApp();
  const typed = useSignal("");
  const busy = useSignal(false);
  const problem = useSignal("");
  const id = useId();
  const word = t("delete.word");
  const same = typed.value.trim().toLocaleUpperCase(locale()) === word.toLocaleUpperCase(locale());
  return (
    <form
      class="stack leaving"
      onSubmit={async (event) => {
        event.preventDefault();
        if (!same) {
          problem.value = t("delete.notTyped", { word });
          return;
        }
        const { phase, connection } = app.status.value ?? {};
        if (phase === "ready" && connection?.state === "offline") {
          app.engine.hurry().catch(() => {}); // for the next tap
          problem.value = t("delete.offline");
          return;
        }
        if (busy.peek()) return;
        busy.value = true;
        try {
          await app.deleteAccount();
        } catch (error) {
          const failure = failureOf(error);
          problem.value = failure.code === "offline" ? t("delete.offline") : sentence(failure);
        } finally {
          busy.value = false;
        }
      }}
    >
      <Scene mood="plain" title={t("delete.title")} />
      <ul class="plain-list">
        <li>{t("delete.server")}</li>
        <li>{t("delete.device")}</li>
        <li>{t("delete.others")}</li>
        <li>{t("delete.final")}</li>
      </ul>
      <label class="label" for={id}>
        {t("delete.type", { word })}
      </label>
      <input
        id={id}
        class="field"
        autoComplete="off"
        autocapitalize="characters"
        value={typed.value}
        aria-invalid={problem.value !== ""}
        aria-describedby={problem.value ? `${id}-problem` : undefined}
        onInput={(event) => {
          typed.value = event.currentTarget.value;
          problem.value = "";
        }}
      />
      {problem.value && <Problem id={`${id}-problem`} text={problem.value} />}
      <button type="submit" class="button button-danger" disabled={busy.value}>
        {t(busy.value ? "delete.busy" : "delete.do")}
      </button>
    </form>
  );
}
