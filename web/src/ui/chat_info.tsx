/** About a chat: its name, mute, pin, archive, block; and whether the other really is who they seem: the safety number. */

import { useSignal } from "@preact/signals";
import { useEffect, useId } from "preact/hooks";
import type { Chat, ChatSettings, Failure, Hex, SafetyNumber } from "../client/api";
import { failureOf } from "../model/failures";
import { end, t } from "../model/i18n";
import { announce, say, sentence, useApp } from "./context";
import { Confirm, Dialog, Menu, shut } from "./dialog";
import { Icon } from "./icons";
import { Egg, Head, Name, Problem, Row, Scene, Switch } from "./parts";
import { Code, Scanner } from "./qr";
import { go, hrefOf } from "./router";
import { titleOf } from "./words";

const HOUR_MS = 3_600_000;

export function InfoScreen({ id }: { id: Hex }) {
  const app = useApp();
  const chat = app.chats.value.get(id);
  const renaming = useSignal(false);
  const muting = useSignal(false);
  const blocking = useSignal(false);
  if (!chat)
    return (
      <section class="pane pane-main" aria-label={t("info.title")}>
        <Head title={t("info.title")} home={{ name: "list" }} />
        {app.loaded.value && <Scene mood="puzzled" title={t("error.chat_unknown")} />}
      </section>
    );
  const set = (settings: ChatSettings) =>
    app.set(id, settings).catch((error) => say(sentence(failureOf(error)), "bad"));
  const unblock = () => app.unblock(id).catch((error) => say(sentence(failureOf(error)), "bad"));
  const mute = (ms: number) =>
    set({ mutedUntilMs: ms === 0 ? 0 : Math.min(Number.MAX_SAFE_INTEGER, app.platform.now() + ms) });
  const muted = app.isMuted(chat);
  const ends = muted && chat.mutedUntilMs < Number.MAX_SAFE_INTEGER;
  return (
    <section class="pane pane-main" aria-label={t("info.title")}>
      <Head title={t("info.title")} home={{ name: "chat", chat: id, at: 0 }} />
      <div class="scroll page">
        <div class="portrait">
          <Egg id={chat.peer ?? chat.id} name={chat.name} photo={chat.photo} size="l" />
          <h2>
            <Name of={titleOf(chat)} />
          </h2>
          {chat.verified && (
            <p class="verified">
              <Icon name="shield" size={20} /> {t("info.verified")}
            </p>
          )}
        </div>
        {chat.kind === "pair" && (
          <div class="card-list">
            <Row
              icon="shield"
              title={t("safety.title")}
              text={t(chat.verified ? "info.verifiedText" : "info.safetyText", { name: titleOf(chat) })}
              href={hrefOf({ name: "safety", chat: id })}
            />
          </div>
        )}
        <div class="card-list">
          <Row
            icon="edit"
            title={t("info.rename")}
            text={t("info.renameText")}
            onClick={() => (renaming.value = true)}
          />
          <Switch
            icon="mute"
            title={t("info.mute")}
            text={
              ends ? t("info.mutedUntil", { time: end(chat.mutedUntilMs, app.platform.now()) }) : t("info.muteText")
            }
            on={muted}
            onChange={(on) => {
              if (on) muting.value = true;
              else mute(0);
            }}
          />
          <Switch icon="pin" title={t("list.pin")} on={chat.pinned} onChange={(pinned) => set({ pinned })} />
          {chat.state !== "blocked" && (
            <Switch
              icon="archive"
              title={t("list.archive")}
              on={chat.archived}
              onChange={(archived) => set({ archived })}
            />
          )}
        </div>
        <div class="card-list">
          {chat.state === "blocked" ? (
            <Row icon="block" title={t("info.unblock")} text={t("info.unblockShort")} onClick={unblock} />
          ) : (
            <Row
              icon="block"
              danger
              title={t("info.block")}
              text={t("info.blockShort")}
              onClick={() => (blocking.value = true)}
            />
          )}
        </div>
      </div>
      {renaming.value && (
        <Rename chat={chat} onName={(name) => set({ name })} onClose={() => (renaming.value = false)} />
      )}
      {muting.value && (
        <Menu
          title={t("info.mute")}
          onClose={() => (muting.value = false)}
          choices={[
            { icon: "mute", label: t("info.muteHour"), run: () => mute(HOUR_MS) },
            { icon: "mute", label: t("info.muteDay"), run: () => mute(24 * HOUR_MS) },
            { icon: "mute", label: t("info.muteWeek"), run: () => mute(7 * 24 * HOUR_MS) },
            { icon: "mute", label: t("info.muteAlways"), run: () => mute(Number.MAX_SAFE_INTEGER) },
          ]}
        />
      )}
      {blocking.value && (
        <Confirm
          title={t("info.blockTitle", { name: titleOf(chat) })}
          text={t("info.blockText")}
          yes={t("info.block")}
          danger
          onYes={async () => {
            try {
              app.put(await app.engine.block(id));
              go({ name: "list" }, true);
              say(t("request.aside", { name: titleOf(chat) }));
            } catch (error) {
              say(sentence(failureOf(error)), "bad");
            }
          }}
          onClose={() => (blocking.value = false)}
        />
      )}
    </section>
  );
}

function Rename({ chat, onName, onClose }: { chat: Chat; onName: (name: string) => void; onClose: () => void }) {
  const name = useSignal(chat.name);
  const problem = useSignal("");
  const id = useId();
  return (
    <Dialog title={t("info.rename")} onClose={onClose}>
      <form
        class="stack"
        onSubmit={(event) => {
          event.preventDefault();
          if (!name.value.trim()) {
            problem.value = t("error.name_empty");
            return;
          }
          if (shut(event.currentTarget)) onName(name.value.trim());
        }}
      >
        <label class="label">
          {t("info.name")}
          <input
            class="field"
            maxLength={60}
            value={name.value}
            autoComplete="off"
            dir="auto"
            aria-invalid={problem.value !== ""}
            aria-describedby={problem.value ? `${id}-problem` : undefined}
            onInput={(event) => {
              name.value = event.currentTarget.value;
              problem.value = "";
            }}
          />
        </label>
        {problem.value && <Problem id={`${id}-problem`} text={problem.value} />}
        <div class="over-actions">
          <button type="submit" class="button">
            {t("common.save")}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

export function SafetyScreen({ id }: { id: Hex }) {
  const app = useApp();
  const chat = app.chats.value.get(id);
  const safety = useSignal<SafetyNumber | null>(null);
  const failure = useSignal<Failure | null>(null);
  const scanning = useSignal(false);
  const result = useSignal<"match" | "mismatch" | "no_code" | null>(null);
  const known = chat !== undefined;
  useEffect(() => {
    if (!known) return;
    app.engine.safetyNumber(id).then(
      (found) => (safety.value = found),
      (error) => (failure.value = failureOf(error)),
    );
  }, [id, known, chat?.verified]);
  const compare = async (scanned: string) => {
    scanning.value = false;
    try {
      const answer = await app.engine.compare(id, scanned);
      result.value = answer;
      app.platform.vibrate(answer === "match" ? 40 : 200);
      announce(t(`safety.${answer}`));
    } catch (error) {
      say(sentence(failureOf(error)), "bad");
    }
  };
  const name = chat ? titleOf(chat) : "";
  const groups = safety.value?.digits.match(/\d{5}/g) ?? [];
  return (
    <section class="pane pane-main" aria-label={t("safety.title")}>
      <Head title={t("safety.title")} home={{ name: "info", chat: id }} />
      <div class="scroll page">
        <p class="lead">{t("safety.text", { name })}</p>
        {failure.value && <Problem text={sentence(failure.value)} />}
        {safety.value && (
          <>
            <div class="safety">
              <Code text={safety.value.code} label={t("safety.code")} />
              <p class="digits" dir="ltr" role="img" aria-label={t("safety.digits", { digits: groups.join(" ") })}>
                {groups.map((each, at) => (
                  <span key={at}>{each}</span>
                ))}
              </p>
            </div>
            <div class="stack">
              <button type="button" class="button" onClick={() => (scanning.value = true)}>
                <Icon name="scan" />
                {t("safety.scan")}
              </button>
              <button
                type="button"
                class="button button-quiet"
                onClick={async () =>
                  say(t((await app.platform.copy(groups.join(" "))) ? "common.copied" : "common.notCopied"))
                }
              >
                <Icon name="copy" />
                {t("safety.copy")}
              </button>
            </div>
            <div class="card-list">
              <Switch
                icon="shield"
                title={t("safety.mark")}
                text={t("safety.markText")}
                on={chat?.verified ?? false}
                onChange={async (on) => {
                  try {
                    app.put(await app.engine.setVerified(id, on));
                  } catch (error) {
                    say(sentence(failureOf(error)), "bad");
                  }
                }}
              />
            </div>
          </>
        )}
      </div>
      {scanning.value && (
        <Scanner
          title={t("safety.scan")}
          hint={t("safety.scanText", { name })}
          onCode={compare}
          onClose={() => (scanning.value = false)}
        />
      )}
      {result.value && (
        <Outcome
          outcome={result.value}
          name={name}
          onClose={() => (result.value = null)}
          onAgain={() => (scanning.value = true)}
        />
      )}
    </section>
  );
}

function Outcome({
  outcome,
  name,
  onClose,
  onAgain,
}: {
  outcome: "match" | "mismatch" | "no_code";
  name: string;
  onClose: () => void;
  onAgain: () => void;
}) {
  return (
    <Dialog title={t(`safety.${outcome}`)} onClose={onClose} head="none">
      <div class={`outcome outcome-${outcome}`}>
        <span class="outcome-sign">
          <Icon name={outcome === "match" ? "check" : outcome === "mismatch" ? "close" : "code"} size={56} />
        </span>
        <p class="outcome-title">{t(`safety.${outcome}`)}</p>
        <p>{t(`safety.${outcome}Text`, { name })}</p>
        <div class="over-actions">
          {outcome !== "match" && (
            <button
              type="button"
              class="button button-quiet"
              onClick={(event) => {
                if (shut(event.currentTarget)) onAgain();
              }}
            >
              {t("safety.again")}
            </button>
          )}
          <button type="button" class="button" onClick={(event) => shut(event.currentTarget)}>
            {t("common.done")}
          </button>
        </div>
      </div>
    </Dialog>
  );
}
