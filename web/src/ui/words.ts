/** Codes of the engine as sentences: notices, what a message is, what a screen reader hears of a row. */

import type { Chat, Message } from "../client/api";
import { has, type Key, t, time } from "../model/i18n";

/** What a chat is called; a word of its own for one that nobody has named yet. */
export function titleOf(chat: Pick<Chat, "name" | "kind">): string {
  return chat.name || t(chat.kind === "group" ? "chat.group" : "chat.somebody");
}

/** What somebody is called who may not have said it yet. */
export function personOf(name: string): string {
  return name || t("chat.somebody");
}

export function noticeText(message: Message): string {
  const key = `notice.${message.notice?.code ?? ""}`;
  if (!has(key)) return t("message.unknown");
  const params = { ...message.notice?.params };
  if (params.name === "") params.name = t("chat.somebody");
  return t(key as Key, params);
}

/** Whether a message's file claims to be a picture. */
export function isPicture({ media }: Pick<Message, "media">): boolean {
  return media?.mediaType.startsWith("image/") ?? false;
}

/** What a message with a file is called, as far as can be said before its bytes are here. */
export function mediaWord(message: Pick<Message, "media">): string {
  return t(isPicture(message) ? "message.photo" : "message.file");
}

/** A message in one sentence: who, when, what, and how far it has come. */
export function spoken(message: Message): string {
  const what = contentOf(message);
  if (message.kind === "notice" || message.kind === "gap") return what;
  const parts = [message.mine ? t("chat.you") : personOf(message.senderName), time(message.sentAtMs), what];
  if (message.mine) parts.push(t(`state.${message.state}`));
  return parts.join(", ");
}

function contentOf(message: Message): string {
  switch (message.kind) {
    case "text":
      return message.text.slice(0, 300);
    case "media":
      return [mediaWord(message), message.text.slice(0, 300)].filter(Boolean).join(": ");
    case "notice":
      return noticeText(message);
    case "gap":
      return t("message.gap", { count: message.gapCount });
    default:
      return t("message.unknown");
  }
}
