/** One message: its bubble with quote, picture, text, time and ticks; or the line of a notice, a gap, an unknown kind. */

import type { Message, Reply } from "../client/api";
import type { App } from "../model/app";
import type { Conversation } from "../model/conversation";
import { plain } from "../model/format";
import { direction, t, time } from "../model/i18n";
import { say, sentence, useApp } from "./context";
import type { Shut } from "./file";
import { Icon, Ticks } from "./icons";
import { memo, Name } from "./parts";
import { Picture } from "./picture";
import { go } from "./router";
import { Text } from "./text";
import { useLongPress, useSwipe } from "./touch";
import { noticeText, personOf } from "./words";

interface Props {
  message: Message;
  conversation: Conversation;
  /** Of the messages of one person that stand together. */
  first: boolean;
  last: boolean;
  group: boolean;
  shut: Shut | null;
  /** The language: another one draws the row anew. */
  words: string;
  onMenu: (message: Message) => void;
  onPhoto: (message: Message) => void;
}

const RTL = /^[^\p{L}]*[\u0591-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u;
const SERIOUS = new Set(["new_device", "account_key", "same_name"]);

export const MessageRow = memo((props: Props) => {
  const { message } = props;
  if (message.kind === "notice")
    return (
      <p class={SERIOUS.has(message.notice?.code ?? "") ? "notice notice-serious" : "notice"}>
        {SERIOUS.has(message.notice?.code ?? "") && <Icon name="shield" size={18} />}
        <span>{noticeText(message)}</span>
      </p>
    );
  if (message.kind === "gap")
    return (
      <p class="notice">
        <span>{t("message.gap", { count: message.gapCount })}</span>
      </p>
    );
  return <Bubble {...props} />;
});

function Bubble({ message, conversation, first, last, group, shut, onMenu, onPhoto }: Props) {
  const app = useApp();
  const { platform } = app;
  const answer = () => {
    conversation.answer(message);
  };
  const swipe = useSwipe(answer, () => platform.vibrate(12));
  const press = useLongPress(() => {
    platform.vibrate(10);
    onMenu(message);
  });
  const touch = {
    onPointerDown: (event: PointerEvent) => {
      swipe.onPointerDown(event);
      press.onPointerDown(event);
    },
    onPointerMove: (event: PointerEvent) => {
      swipe.onPointerMove(event);
      press.onPointerMove(event);
    },
    onPointerUp: (event: PointerEvent) => {
      swipe.onPointerUp(event);
      press.onPointerUp(event);
    },
    onPointerCancel: (event: PointerEvent) => {
      swipe.onPointerCancel(event);
      press.onPointerCancel(event);
    },
  };
  const at = time(message.sentAtMs);
  const beside = (RTL.test(message.text.slice(0, 100)) ? "rtl" : "ltr") === direction();
  const shape = [
    "line",
    message.mine ? "line-mine" : "line-theirs",
    first ? "line-first" : "",
    last ? "line-last" : "",
    message.state === "failed" ? "line-failed" : "",
  ];
  return (
    <div class={shape.join(" ")} {...touch}>
      <span class="swipe-sign" aria-hidden="true">
        <Icon name="reply" size={20} />
      </span>
      <div class={`bubble bubble-${message.kind}`}>
        {group && first && !message.mine && (
          <p class="sender">
            <Name of={personOf(message.senderName)} />
          </p>
        )}
        {message.reply && <Quote reply={message.reply} onOpen={conversation} />}
        {message.kind === "media" && (
          <Picture message={message} conversation={conversation} shut={shut} onOpen={() => onPhoto(message)} />
        )}
        {message.kind === "unknown" && (
          <p class="unknown">
            <Icon name="info" size={18} />
            <span>{t("message.unknown")}</span>
          </p>
        )}
        <div class={beside ? "said said-beside" : "said"}>
          {message.kind !== "unknown" && message.text && (
            <Text text={message.text} time={at} onLink={(href) => inApp(app, href)} />
          )}
          <span class="meta">
            <time>{at}</time>
            {message.mine && (
              <>
                <Ticks state={message.state} />
                <span class="sr-only">{t(`state.${message.state}`)}</span>
              </>
            )}
          </span>
        </div>
        {message.state === "failed" && message.failure && <p class="why">{sentence(message.failure)}</p>}
        {message.state === "failed" && (
          <button
            type="button"
            class="retry"
            onClick={async () => {
              const failure = await conversation.retry(message);
              if (failure) say(sentence(failure), "bad");
            }}
          >
            <Icon name="retry" size={18} />
            {t("message.retry")}
          </button>
        )}
      </div>
      <button
        type="button"
        class="line-more icon-button"
        tabIndex={-1}
        aria-label={t("message.menu")}
        onClick={() => onMenu(message)}
      >
        <Icon name="more" size={20} />
      </button>
    </div>
  );
}

function Quote({ reply, onOpen }: { reply: Reply; onOpen: Conversation }) {
  return (
    <button
      type="button"
      class="quote"
      onClick={async () => {
        const failure = await onOpen.toReply(reply);
        if (failure) say(failure.code === "message_unknown" ? t("message.quoteMissing") : sentence(failure));
      }}
    >
      <QuoteWords reply={reply} />
    </button>
  );
}

export function QuoteWords({ reply }: { reply: Pick<Reply, "mine" | "senderName" | "kind" | "text"> }) {
  return (
    <>
      <span class="quote-who one-line">{reply.mine ? t("chat.you") : <Name of={personOf(reply.senderName)} />}</span>
      <span class="quote-what" dir="auto">
        {reply.kind === "missing" && t("message.quoteMissing")}
        {reply.kind === "media" && (
          <>
            <Icon name="picture" size={16} /> {reply.text ? plain(reply.text) : t("message.photo")}
          </>
        )}
        {reply.kind === "unknown" && t("message.unknown")}
        {reply.kind === "text" && plain(reply.text)}
      </span>
    </>
  );
}

/** A contact link of this app's own server opens in the app. */
function inApp(app: App, href: string): boolean {
  try {
    const url = new URL(href);
    if (url.origin !== location.origin || url.pathname !== "/c" || !url.hash) return false;
  } catch {
    return false;
  }
  app.keepLink(href);
  go({ name: "add" });
  return true;
}
