/** The list of chats: previews, badges, drafts, who is typing; search over chats and history; what to do when it is empty. */

import { useComputed, useSignal } from "@preact/signals";
import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Chat, ErrorCode, Message, SearchResult } from "../client/api";
import { isAside } from "../model/app";
import { failureOf } from "../model/failures";
import { plain } from "../model/format";
import { locale, number, t, when } from "../model/i18n";
import { InstallCard, ListCard } from "./cards";
import { say, sentence, useApp } from "./context";
import { type Choice, Menu } from "./dialog";
import { Icon, Ticks } from "./icons";
import { Egg, Head, memo, Name, Scene } from "./parts";
import { Mark } from "./pigeon";
import { go, hrefOf, type Route, route } from "./router";
import { useLongPress } from "./touch";
import { isPicture, mediaWord, noticeText, personOf, titleOf } from "./words";

/** Letters before what was found. */
const BEFORE = 40;

export function ChatListScreen() {
  const app = useApp();
  const chats = app.listed.value;
  const requests = app.requests.value;
  const aside = app.aside.value;
  const archived = app.archived.value;
  const open = route.value.name === "chat" || route.value.name === "info" ? route.value.chat : "";
  const replaced = app.status.value?.phase === "replaced";
  const pane = useRef<HTMLElement>(null);
  useReturn(pane);
  return (
    <section class="pane pane-list" aria-label={t("list.title")} ref={pane}>
      <header class="head head-home">
        <Mark size={34} />
        <h1 class="head-title">Taube</h1>
        <a class="icon-button" href="#/search" aria-label={t("search.title")}>
          <Icon name="search" />
        </a>
        <a class="icon-button" href="#/contact" aria-label={t("contact.title")}>
          <Icon name="code" />
        </a>
        <a class="icon-button" href="#/settings" aria-label={t("settings.title")}>
          <Icon name="gear" />
        </a>
      </header>
      <Banner />
      <div class="scroll" id="chat-list">
        {chats.length > 0 && <ListCard />}
        {requests.length + aside.length > 0 && (
          <a class="list-shelf" href="#/requests">
            <span class="shelf-icon">
              <Icon name="person" />
            </span>
            <span class="grow">{t("list.requests")}</span>
            {requests.length > 0 && <span class="badge">{number(requests.length)}</span>}
          </a>
        )}
        {archived.length > 0 && (
          <a class="list-shelf" href="#/archived">
            <span class="shelf-icon">
              <Icon name="archive" />
            </span>
            <span class="grow">{t("list.archived")}</span>
            <span class="quiet">{number(archived.length)}</span>
          </a>
        )}
        {chats.length > 0 ? (
          <ul class="chats">
            {chats.map((each) => (
              <ChatRow key={each.id} chat={each} open={each.id === open} words={locale()} />
            ))}
          </ul>
        ) : (
          app.loaded.value && <Empty />
        )}
      </div>
      {!replaced && (chats.length > 0 || !app.loaded.value) && (
        <a class="fab" href="#/add">
          <Icon name="add" />
          <span class="sr-only">{t("add.title")}</span>
        </a>
      )}
    </section>
  );
}

/** Whoever comes back from a screen finds the focus where they went in. */
function useReturn(pane: RefObject<HTMLElement | null>): void {
  const now = route.value;
  const before = useRef("");
  useEffect(() => {
    if (now.name !== "list") {
      const top: Route = now.name === "settings" ? { name: "settings", page: "" } : now;
      before.current = "chat" in now ? hrefOf({ name: "chat", chat: now.chat, at: 0 }) : hrefOf(top);
      return;
    }
    if (!before.current || document.activeElement !== document.body) return;
    const way = pane.current?.querySelector<HTMLElement>(`a[href="${CSS.escape(before.current)}"]`);
    way?.focus({ preventScroll: true });
    if (way?.matches(":focus-visible")) way.scrollIntoView({ block: "nearest" });
  }, [now]);
}

function Empty() {
  return (
    <Scene mood="letter" title={t("list.empty")} text={t("list.emptyText")}>
      <a class="button" href="#/contact">
        <Icon name="code" />
        {t("list.showLink")}
      </a>
      <a class="button button-quiet" href="#/add">
        <Icon name="add" />
        {t("add.title")}
      </a>
      <InstallCard />
    </Scene>
  );
}

/** Why nothing comes in, where it is not the network. */
const NOT_OF_THE_NETWORK: ReadonlySet<ErrorCode> = new Set(["storage", "newer", "damaged"]);

/** What is wrong with the connection, in one line; nothing while all is well. */
export function Banner() {
  const app = useApp();
  const status = app.status.value;
  const { cutOff } = app;
  const state = status?.connection.state ?? "connecting";
  useEffect(() => {
    if (state === "online") {
      cutOff.value = false;
      return;
    }
    return app.platform.later(1_500, () => (cutOff.value = true));
  }, [state]);
  if (!status) return null;
  if (status.phase === "replaced")
    return (
      <button type="button" class="banner banner-bad" onClick={() => (app.shown.value = "replaced")}>
        <Icon name="warning" size={20} />
        <span>{t("banner.replaced")}</span>
      </button>
    );
  if (state === "online") {
    if (status.connection.caughtUp) return null;
    return <p class="banner">{t("banner.catchingUp")}</p>;
  }
  if (!cutOff.value) return null;
  const { failure } = status.connection;
  return (
    <p class="banner" role="status">
      <Icon name="clock" size={20} />
      <span>
        {failure && NOT_OF_THE_NETWORK.has(failure.code)
          ? sentence(failure)
          : t(state === "connecting" ? "banner.connecting" : "banner.offline")}
      </span>
      {state === "offline" && (
        <button type="button" class="link-button" onClick={() => app.engine.hurry().catch(() => {})}>
          {t("common.again")}
        </button>
      )}
    </p>
  );
}

const ChatRow = memo(({ chat, open }: { chat: Chat; open: boolean; words: string }) => {
  const app = useApp();
  const menu = useSignal(false);
  const typing = useComputed(() => app.typing.value.get(chat.id)).value;
  const press = useLongPress(() => {
    app.platform.vibrate(10);
    menu.value = true;
  });
  const muted = app.isMuted(chat);
  const unread = isAside(chat) ? 0 : chat.unread;
  const label = [
    unread > 0 ? t("list.unread", { count: unread }) : "",
    chat.pinned ? t("list.pinned") : "",
    muted ? t("list.muted") : "",
  ].filter(Boolean);
  return (
    <li class={open ? "chat-item chat-open" : "chat-item"}>
      <a
        class="chat-row"
        href={hrefOf({ name: "chat", chat: chat.id, at: 0 })}
        aria-current={open ? "page" : undefined}
        onContextMenu={(event) => {
          event.preventDefault();
          menu.value = true;
        }}
        {...press}
      >
        <Egg id={chat.peer ?? chat.id} name={chat.name} photo={chat.photo} />
        <span class="chat-words">
          <span class="chat-line">
            <span class="chat-name one-line">
              <Name of={titleOf(chat)} />
              {chat.verified && (
                <span class="verified">
                  <Icon name="shield" size={16} />
                  <span class="sr-only">{t("info.verified")}</span>
                </span>
              )}
            </span>
            {chat.lastAtMs > 0 && (
              <time class={unread && !muted ? "chat-time chat-time-unread" : "chat-time"}>
                {when(chat.lastAtMs, app.platform.now())}
              </time>
            )}
          </span>
          <span class="chat-line">
            <span class="chat-preview">
              {typing !== undefined ? <span class="is-typing">{t("chat.typing")}</span> : <Preview chat={chat} />}
            </span>
            {muted && <Icon name="mute" size={16} />}
            {chat.pinned && <Icon name="pin" size={16} />}
            {unread > 0 && <span class={muted ? "badge badge-muted" : "badge"}>{number(unread)}</span>}
            {label.length > 0 && <span class="sr-only">{label.join(", ")}</span>}
          </span>
        </span>
      </a>
      <button
        type="button"
        class="chat-more icon-button"
        aria-label={t("list.menuOf", { name: titleOf(chat) })}
        onClick={() => (menu.value = true)}
      >
        <Icon name="more" size={20} />
      </button>
      {menu.value && <ChatMenu chat={chat} onClose={() => (menu.value = false)} />}
    </li>
  );
});

function Preview({ chat }: { chat: Chat }) {
  if (chat.state === "blocked")
    return (
      <>
        <Icon name="block" size={16} />
        <span class="preview-text">{t("chat.blocked")}</span>
      </>
    );
  if (chat.draft)
    return (
      <>
        <span class="draft">{t("list.draft")}</span>
        <span class="preview-text" dir="auto">
          {plain(chat.draft)}
        </span>
      </>
    );
  const last = chat.last;
  if (!last) return <span class="preview-text">{t(chat.waiting ? "chat.waiting" : "list.noMessages")}</span>;
  return (
    <>
      {last.mine && last.kind !== "notice" && (
        <>
          <Ticks state={last.state} />
          <span class="sr-only">{t(`state.${last.state}`)}</span>
        </>
      )}
      <PreviewOf message={last} />
    </>
  );
}

function PreviewOf({ message }: { message: Message }) {
  const words = {
    text: () => plain(message.text),
    media: () => (message.text ? plain(message.text) : mediaWord(message)),
    notice: () => noticeText(message),
    gap: () => t("message.gap", { count: message.gapCount }),
    unknown: () => t("message.unknown"),
  }[message.kind]();
  return (
    <>
      {message.kind === "media" && <Icon name={isPicture(message) ? "picture" : "file"} size={16} />}
      <span class="preview-text" dir="auto">
        {words}
      </span>
    </>
  );
}

function ChatMenu({ chat, onClose }: { chat: Chat; onClose: () => void }) {
  const app = useApp();
  const set = (settings: Parameters<typeof app.set>[1]) =>
    app.set(chat.id, settings).catch((error) => say(sentence(failureOf(error)), "bad"));
  const muted = app.isMuted(chat);
  const choices: Choice[] = [
    {
      icon: chat.pinned ? "unpin" : "pin",
      label: t(chat.pinned ? "list.unpin" : "list.pin"),
      run: () => set({ pinned: !chat.pinned }),
    },
    {
      icon: muted ? "bell" : "mute",
      label: t(muted ? "info.unmute" : "info.mute"),
      run: () => set({ mutedUntilMs: muted ? 0 : Number.MAX_SAFE_INTEGER }),
    },
    { icon: "info", label: t("info.title"), run: () => go({ name: "info", chat: chat.id }) },
  ];
  if (!isAside(chat))
    choices.splice(2, 0, {
      icon: "archive",
      label: t(chat.archived ? "list.unarchive" : "list.archive"),
      run: () => set({ archived: !chat.archived }),
    });
  return <Menu title={t("list.menuOf", { name: titleOf(chat) })} choices={choices} onClose={onClose} />;
}

/** Archived chats, or requests and below them who was ignored or blocked. */
export function ShelfScreen({ kind }: { kind: "archived" | "requests" }) {
  const app = useApp();
  const chats = kind === "archived" ? app.archived.value : app.requests.value;
  const aside = kind === "archived" ? [] : app.aside.value;
  return (
    <section class="pane pane-main" aria-label={t(`list.${kind}`)}>
      <Head title={t(`list.${kind}`)} home={{ name: "list" }} />
      <div class="scroll">
        <p class="hint">{t(kind === "archived" ? "list.archivedText" : "list.requestsText")}</p>
        {chats.length + aside.length === 0 && (
          <Scene mood="asleep" title={t(kind === "archived" ? "list.noArchived" : "list.noRequests")} />
        )}
        {chats.length > 0 && <Rows chats={chats} />}
        {aside.length > 0 && (
          <Group title={t("list.aside")}>
            <Rows chats={aside} />
          </Group>
        )}
      </div>
    </section>
  );
}

export function SearchScreen() {
  const app = useApp();
  const words = useSignal("");
  const result = useSignal<SearchResult | null>(null);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const asked = useRef(0);
  useEffect(() => {
    const wanted = words.value.trim();
    asked.current += 1;
    const mine = asked.current;
    if (!wanted) {
      result.value = null;
      return;
    }
    return app.platform.later(180, async () => {
      try {
        const found = await app.search(wanted);
        if (mine === asked.current) result.value = found;
      } catch (error) {
        say(sentence(failureOf(error)), "bad");
      }
    });
  }, [words.value]);
  const found = result.value;
  return (
    <section class="pane pane-main" aria-label={t("search.title")}>
      <header class="head">
        <button type="button" class="icon-button back" aria-label={t("common.back")} onClick={() => history.back()}>
          <Icon name="back" />
        </button>
        <h1 class="sr-only">{t("search.title")}</h1>
        <input
          ref={field}
          class="field search-field"
          type="search"
          enterKeyHint="search"
          autoComplete="off"
          aria-label={t("search.label")}
          placeholder={t("search.label")}
          value={words.value}
          onInput={(event) => (words.value = event.currentTarget.value)}
        />
      </header>
      <div class="scroll" aria-live="polite">
        {!found && <Scene mood="plain" title={t("search.start")} text={t("search.startText")} />}
        {found && found.chats.length + found.messages.length === 0 && (
          <Scene
            mood="puzzled"
            title={t("search.nothing")}
            text={t("search.nothingText", { words: words.value.trim().slice(0, 60) })}
          />
        )}
        {found && found.chats.length > 0 && (
          <Group title={t("search.chats")}>
            <Rows chats={found.chats} />
          </Group>
        )}
        {found && found.messages.length > 0 && (
          <Group title={t("search.messages")}>
            <ul class="chats">
              {found.messages.map((each) => (
                <Found key={each.id + each.sender} message={each} words={words.value.trim()} />
              ))}
            </ul>
          </Group>
        )}
        {found && !found.complete && <p class="hint">{t("search.incomplete")}</p>}
      </div>
    </section>
  );
}

function Rows({ chats }: { chats: readonly Chat[] }) {
  return (
    <ul class="chats">
      {chats.map((each) => (
        <ChatRow key={each.id} chat={each} open={false} words={locale()} />
      ))}
    </ul>
  );
}

function Group({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section>
      <h2 class="group-title">{title}</h2>
      {children}
    </section>
  );
}

function Found({ message, words }: { message: Message; words: string }) {
  const app = useApp();
  const chat = app.chats.value.get(message.chat);
  return (
    <li class="chat-item">
      <a class="chat-row" href={hrefOf({ name: "chat", chat: message.chat, at: message.n })}>
        <span class="chat-words">
          <span class="chat-line">
            <span class="chat-name one-line">
              <Name of={chat ? titleOf(chat) : personOf(message.senderName)} />
            </span>
            <time class="chat-time">{when(message.sentAtMs, app.platform.now())}</time>
          </span>
          <span class="found">
            {message.mine && <span class="quiet">{t("chat.you")}: </span>}
            <Marked text={message.text} words={words} />
          </span>
        </span>
      </a>
    </li>
  );
}

function Marked({ text, words }: { text: string; words: string }) {
  const shown = plain(text, 20_000);
  const at = shown.toLocaleLowerCase().indexOf(words.toLocaleLowerCase());
  if (at < 0) return <bdi>{plain(text)}</bdi>;
  const from = at > BEFORE ? shown.lastIndexOf(" ", at - BEFORE / 2) + 1 : 0;
  return (
    <bdi>
      {from > 0 && "… "}
      {shown.slice(Math.max(from, at - BEFORE), at)}
      <mark>{shown.slice(at, at + words.length)}</mark>
      {shown.slice(at + words.length, at + words.length + 100)}
    </bdi>
  );
}
