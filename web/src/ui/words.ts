/** Codes of the engine as sentences: notices, what a message is, what a screen reader hears of a row. */

import type { Message } from "../client/api";
import { has, type Key, t, time } from "../model/i18n";

export function noticeText(message: Message): string {
  const key = `notice.${message.notice?.code ?? ""}`;
  return has(key) ? t(key as Key, message.notice?.params) : t("message.unknown");
}

/** A message in one sentence: who, when, what, and how far it has come. */
export function spoken(message: Message): string {
  const what = contentOf(message);
  if (message.kind === "notice" || message.kind === "gap") return what;
  const parts = [message.mine ? t("chat.you") : message.senderName, time(message.sentAtMs), what];
  if (message.mine) parts.push(t(`state.${message.state}`));
  return parts.join(", ");
}

function contentOf(message: Message): string {
  switch (message.kind) {
    case "text":
      return message.text.slice(0, 300);
    case "media":
      return [t("message.photo"), message.text.slice(0, 300)].filter(Boolean).join(": ");
    case "notice":
      return noticeText(message);
    case "gap":
      return t("message.gap", { count: message.gapCount });
    default:
      return t("message.unknown");
  }
}
