/** The screen of a chat: who it is with, its messages, what to do with a stranger's request, and where one writes. */

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo } from "preact/hooks";
import type { Chat, Hex, Message, Photo } from "../client/api";
import { failureOf } from "../model/failures";
import { plain } from "../model/format";
import { t } from "../model/i18n";
import { Banner } from "./chat_list";
import { Composer } from "./composer";
import { say, sentence, useApp } from "./context";
import { type Choice, Confirm, Menu } from "./dialog";
import { Icon } from "./icons";
import { MessageList } from "./message_list";
import { BackButton, Egg, Name, Problem, Scene } from "./parts";
import { go, hrefOf } from "./router";
import { Viewer } from "./viewer";
import { isPicture, titleOf } from "./words";

export function ConversationScreen({ id, at }: { id: Hex; at: number }) {
  const app = useApp();
  const conversation = useMemo(() => app.conversation(id), [id]);
  const chat = app.chats.value.get(id);
  const menu = useSignal<Message | null>(null);
  const viewed = useSignal<Message | null>(null);
  const photo = useSignal<Photo | null>(null);
  const dropping = useSignal(false);
  // the same functions each time: a chat that changed is no reason to draw its messages anew
  const openMenu = useMemo(() => (message: Message) => (menu.value = message), [menu]);
  const openPhoto = useMemo(() => (message: Message) => (viewed.value = message), [viewed]);
  const known = chat !== undefined;
  useLayoutEffect(() => {
    if (!known) return;
    conversation.open(at);
    return () => conversation.close();
  }, [conversation, at, known]);
  useEffect(() => {
    if (!known) return;
    // a phone's keyboard comes when it is asked for
    const wanted = matchMedia("(pointer: coarse)").matches ? ".head-title" : ".writing-field, .head-title";
    const all = [...document.querySelectorAll<HTMLElement>(`.pane-main :is(${wanted})`)];
    all.at(-1)?.focus({ preventScroll: true });
  }, [id, known]);
  if (!chat) {
    if (!app.loaded.value) return <section class="pane pane-main" aria-label={t("chat.messages")} />;
    return (
      <section class="pane pane-main" aria-label={t("chat.messages")}>
        <Scene mood="puzzled" title={t("error.chat_unknown")}>
          <a class="button" href="#/">
            {t("common.toChats")}
          </a>
        </Scene>
      </section>
    );
  }
  const drop = async (event: DragEvent) => {
    event.preventDefault();
    dropping.value = false;
    const file = event.dataTransfer?.files[0];
    if (!file || chat.state !== "open") return;
    try {
      photo.value = await app.platform.photo(file);
    } catch (error) {
      say(sentence(failureOf(error)), "bad");
    }
  };
  return (
    <section
      class={dropping.value ? "pane pane-main conversation dropping" : "pane pane-main conversation"}
      aria-label={t("chat.with", { name: titleOf(chat) })}
      onDragOver={(event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        dropping.value = true;
      }}
      onDragLeave={(event) => {
        if (event.currentTarget === event.target) dropping.value = false;
      }}
      onDrop={drop}
    >
      <ChatHead chat={chat} />
      <Banner />
      {conversation.loaded.value ? (
        <MessageList key={id} chat={chat} conversation={conversation} onMenu={openMenu} onPhoto={openPhoto} />
      ) : (
        <div class="messages-frame">
          {conversation.failure.value && <Problem text={sentence(conversation.failure.value)} />}
        </div>
      )}
      <Bottom chat={chat} photo={photo} />
      {menu.value && (
        <MessageMenu message={menu.value} chat={chat} onView={viewed} onClose={() => (menu.value = null)} />
      )}
      {viewed.value && (
        <Viewer message={viewed.value} conversation={conversation} onClose={() => (viewed.value = null)} />
      )}
    </section>
  );
}

function ChatHead({ chat }: { chat: Chat }) {
  const app = useApp();
  const typing = useComputed(() => app.typing.value.has(chat.id)).value;
  const state = typing
    ? t("chat.typing")
    : chat.waiting
      ? t("chat.waiting")
      : chat.state === "blocked"
        ? t("chat.blocked")
        : chat.verified
          ? t("info.verified")
          : "";
  return (
    <header class="head head-chat">
      <BackButton home={{ name: "list" }} />
      <a class="head-who" href={hrefOf({ name: "info", chat: chat.id })}>
        <Egg id={chat.peer ?? chat.id} name={chat.name} photo={chat.photo} size="s" />
        <span class="head-words">
          <h1 class="head-title one-line" tabIndex={-1}>
            <Name of={titleOf(chat)} />
          </h1>
          {state && <span class={typing ? "head-state is-typing" : "head-state"}>{state}</span>}
        </span>
        <span class="sr-only">{t("info.title")}</span>
        <Icon name="info" />
      </a>
    </header>
  );
}

function Bottom({ chat, photo }: { chat: Chat; photo: { value: Photo | null } }) {
  const app = useApp();
  if (app.status.value?.phase === "replaced") return <p class="bar">{t("banner.replaced")}</p>;
  if (chat.state === "request") return <Request chat={chat} />;
  if (chat.state === "blocked") return <Blocked chat={chat} />;
  return <Composer chat={chat} conversation={app.conversation(chat.id)} photo={photo} />;
}

function Request({ chat }: { chat: Chat }) {
  const app = useApp();
  const asking = useSignal(false);
  const busy = useSignal(false);
  const run = async (act: () => Promise<Chat>, leave: boolean) => {
    if (busy.peek()) return;
    busy.value = true;
    try {
      app.put(await act());
      if (!leave) return;
      go({ name: "list" }, true);
      say(t("request.aside", { name: titleOf(chat) }));
    } catch (error) {
      say(sentence(failureOf(error)), "bad");
    } finally {
      busy.value = false;
    }
  };
  return (
    <section class="bar bar-request" aria-label={t("list.requests")}>
      {chat.sameNameAs && <Problem text={t("request.sameName", { name: chat.sameNameAs })} />}
      <p>
        <strong>{t("request.title", { name: titleOf(chat) })}</strong> {t("request.text")}
      </p>
      <div class="bar-actions">
        <button
          type="button"
          class="button button-danger-quiet"
          disabled={busy.value}
          onClick={() => (asking.value = true)}
        >
          {t("info.block")}
        </button>
        {!chat.archived && (
          <button
            type="button"
            class="button button-quiet"
            disabled={busy.value}
            onClick={() => run(() => app.engine.ignore(chat.id), true)}
          >
            {t("request.ignore")}
          </button>
        )}
        <button
          type="button"
          class="button"
          disabled={busy.value}
          onClick={() => run(() => app.engine.accept(chat.id), false)}
        >
          {t("request.accept")}
        </button>
      </div>
      {asking.value && (
        <Confirm
          title={t("info.blockTitle", { name: titleOf(chat) })}
          text={t("info.blockText")}
          yes={t("info.block")}
          danger
          onYes={() => run(() => app.engine.block(chat.id), true)}
          onClose={() => (asking.value = false)}
        />
      )}
    </section>
  );
}

function Blocked({ chat }: { chat: Chat }) {
  const app = useApp();
  const unblock = () => app.unblock(chat.id).catch((error) => say(sentence(failureOf(error)), "bad"));
  return (
    <div class="bar">
      <p>{t("chat.blockedText", { name: titleOf(chat) })}</p>
      <div class="bar-actions">
        <button type="button" class="button button-quiet" onClick={unblock}>
          {t("info.unblock")}
        </button>
      </div>
    </div>
  );
}

function MessageMenu({
  message,
  chat,
  onView,
  onClose,
}: {
  message: Message;
  chat: Chat;
  onView: { value: Message | null };
  onClose: () => void;
}) {
  const app = useApp();
  const conversation = app.conversation(chat.id);
  const choices: Choice[] = [];
  const bubble = message.kind !== "notice" && message.kind !== "gap";
  if (bubble && chat.state === "open")
    choices.push({ icon: "reply", label: t("message.reply"), run: () => conversation.answer(message) });
  if (message.text)
    choices.push({
      icon: "copy",
      label: t("message.copy"),
      run: async () => say(t((await app.platform.copy(message.text)) ? "common.copied" : "common.notCopied")),
    });
  if (isPicture(message))
    choices.push({ icon: "eye", label: t("message.openPhoto"), run: () => (onView.value = message) });
  if (message.state === "failed")
    choices.push({
      icon: "retry",
      label: t("message.retry"),
      run: async () => {
        const failure = await conversation.retry(message);
        if (failure) say(sentence(failure), "bad");
      },
    });
  if (message.kind === "notice")
    choices.push({ icon: "shield", label: t("safety.title"), run: () => go({ name: "safety", chat: chat.id }) });
  if (choices.length === 0)
    choices.push({ icon: "info", label: t("info.title"), run: () => go({ name: "info", chat: chat.id }) });
  return <Menu title={plain(message.text, 60) || t("message.menu")} choices={choices} onClose={onClose} />;
}
