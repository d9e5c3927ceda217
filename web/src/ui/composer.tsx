/** Where one writes: text that grows with its lines, what it answers, photos that are picked, taken, pasted or dropped. */

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Chat, Photo } from "../client/api";
import type { Conversation } from "../model/conversation";
import { failureOf } from "../model/failures";
import { size, t } from "../model/i18n";
import { say, sentence, useApp } from "./context";
import { Dialog, Menu, shut } from "./dialog";
import { Icon } from "./icons";
import { QuoteWords } from "./message";
import { useObjectUrl } from "./parts";
import { titleOf } from "./words";

const HEIGHT_PX_MOST = 148;
const OWN_SIZING = typeof CSS !== "undefined" && CSS.supports("field-sizing", "content");

export function Composer({
  chat,
  conversation,
  photo,
}: {
  chat: Chat;
  conversation: Conversation;
  photo: { value: Photo | null };
}) {
  const app = useApp();
  const field = useRef<HTMLTextAreaElement>(null);
  const picked = useRef<HTMLInputElement>(null);
  const taken = useRef<HTMLInputElement>(null);
  const menu = useSignal(false);
  const answered = conversation.reply.value;
  const answers = conversation.answers.value;
  const text = conversation.draft.value;
  useLayoutEffect(() => {
    const element = field.current;
    if (!element || OWN_SIZING) return;
    element.style.blockSize = "auto";
    element.style.blockSize = `${Math.min(HEIGHT_PX_MOST, element.scrollHeight + 2)}px`;
  }, [text]);
  useEffect(() => {
    if (answers > 0) field.current?.focus();
  }, [answers]);
  const send = async () => {
    field.current?.focus();
    const failure = await conversation.send();
    if (failure) say(sentence(failure), "bad");
  };
  const take = async (file: File | undefined) => {
    if (!file) return;
    try {
      photo.value = await app.platform.photo(file);
    } catch (error) {
      say(sentence(failureOf(error)), "bad");
    }
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {answered && (
        <div class="answering">
          <div class="quote">
            <QuoteWords
              reply={{
                mine: answered.mine,
                senderName: answered.senderName,
                kind: answered.kind,
                text: answered.text.slice(0, 200),
              }}
            />
          </div>
          <button
            type="button"
            class="icon-button"
            aria-label={t("chat.cancelReply")}
            onClick={() => conversation.answer(null)}
          >
            <Icon name="close" />
          </button>
        </div>
      )}
      <div class="writing">
        <button
          type="button"
          class="icon-button"
          aria-label={t("chat.attach")}
          aria-haspopup="menu"
          onClick={() => (menu.value = true)}
        >
          <Icon name="attach" />
        </button>
        <textarea
          ref={field}
          class="field writing-field"
          rows={1}
          dir="auto"
          value={text}
          aria-label={t("chat.write")}
          placeholder={t("chat.write")}
          enterkeyhint={coarse() ? "enter" : "send"}
          autoComplete="off"
          onInput={(event) => conversation.write(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Escape" && answered) {
              conversation.answer(null);
              return;
            }
            if (event.key !== "Enter" || event.shiftKey || event.isComposing || coarse()) return;
            event.preventDefault();
            send();
          }}
          onPaste={(event) => {
            const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
            if (!file) return;
            event.preventDefault();
            take(file);
          }}
        />
        <button
          type="submit"
          class="send"
          aria-label={t("chat.send")}
          aria-disabled={text.trim() === ""}
          onPointerDown={(event) => event.preventDefault()}
        >
          <Icon name="send" />
        </button>
      </div>
      {[picked, taken].map((input, at) => (
        <input
          key={at === 0 ? "picked" : "taken"}
          ref={input}
          class="sr-only"
          type="file"
          accept="image/*"
          {...(at === 1 ? { capture: "environment" as const } : {})}
          tabIndex={-1}
          aria-hidden="true"
          onChange={(event) => {
            take(event.currentTarget.files?.[0]);
            event.currentTarget.value = "";
          }}
        />
      ))}
      {menu.value && (
        <Menu
          title={t("chat.attach")}
          onClose={() => (menu.value = false)}
          choices={[
            { icon: "picture", label: t("chat.pick"), run: () => picked.current?.click() },
            { icon: "camera", label: t("chat.take"), run: () => taken.current?.click() },
          ]}
        />
      )}
      {photo.value && (
        <Preview photo={photo.value} chat={chat} conversation={conversation} onClose={() => (photo.value = null)} />
      )}
    </form>
  );
}

function coarse(): boolean {
  return matchMedia("(pointer: coarse)").matches;
}

function Preview({
  photo,
  chat,
  conversation,
  onClose,
}: {
  photo: Photo;
  chat: Chat;
  conversation: Conversation;
  onClose: () => void;
}) {
  const url = useObjectUrl(photo.data);
  const caption = useSignal(conversation.draft.peek());
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => field.current?.focus(), []);
  const send = async (target: HTMLElement) => {
    if (!shut(target)) return;
    conversation.write("");
    const failure = await conversation.sendPhoto(photo, caption.value);
    if (failure) say(sentence(failure), "bad");
  };
  return (
    <Dialog title={t("photo.sendTo", { name: titleOf(chat) })} kind="full" onClose={onClose}>
      <div class="preview">
        <div class="preview-picture">{url && <img src={url} alt={t("message.photo")} />}</div>
        <p class="quiet">{t("photo.kept", { size: size(photo.data.size) })}</p>
        <div class="writing">
          <textarea
            ref={field}
            class="field writing-field"
            rows={1}
            dir="auto"
            aria-label={t("photo.caption")}
            placeholder={t("photo.caption")}
            value={caption.value}
            onInput={(event) => (caption.value = event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key !== "Enter" || event.shiftKey || event.isComposing || coarse()) return;
              event.preventDefault();
              send(event.currentTarget);
            }}
          />
          <button type="button" class="send" aria-label={t("chat.send")} onClick={(event) => send(event.currentTarget)}>
            <Icon name="send" />
          </button>
        </div>
      </div>
    </Dialog>
  );
}
