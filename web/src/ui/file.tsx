/** A file in a bubble that is not shown as a picture: its name, its size, and saving it. Nothing of it is ever opened here. */

import { useSignal } from "@preact/signals";
import type { Message } from "../client/api";
import type { Conversation } from "../model/conversation";
import { failureOf } from "../model/failures";
import { fileName } from "../model/format";
import { percent, size, t } from "../model/i18n";
import { say, sentence } from "./context";
import { Icon } from "./icons";

/** The words for it, if nothing is fetched for a chat: it is not accepted, or blocked. */
export type Shut = "file.closed" | "file.blocked";

interface Props {
  message: Message;
  conversation: Conversation;
  /** Why nothing is fetched for the chat; null: it is. */
  shut: Shut | null;
  /** Why it is not shown, where it claims to be a picture. */
  why?: string;
}

export function FileCard({ message, conversation, shut, why = "" }: Props) {
  const { media } = message;
  const busy = useSignal(false);
  if (!media) return null;
  const name = fileName(media.name, "") || t("message.file");
  const moving = media.state === "loading" || media.state === "uploading";
  const gone = media.state === "gone";
  const closed = media.state === "here" ? null : shut;
  const save = async () => {
    busy.value = true;
    try {
      saveAs(await conversation.media(message), name);
    } catch (error) {
      say(sentence(failureOf(error)), "bad");
    } finally {
      busy.value = false;
    }
  };
  return (
    <div class="file">
      <span class="file-sign">
        <Icon name="file" />
      </span>
      <span class="file-words">
        <bdi class="file-name" dir="ltr">
          {name}
        </bdi>
        <span class="file-size">
          {size(media.size)}
          {moving && ` · ${percent(media.progress)}`}
        </span>
        {why && <span class="file-why">{why}</span>}
        {gone && <span class="file-why">{t("error.file_gone")}</span>}
        {closed && <span class="file-why">{t(closed)}</span>}
      </span>
      {!gone && !closed && (
        <button
          type="button"
          class="icon-button"
          aria-label={t("file.save", { name })}
          disabled={busy.value || moving}
          onClick={save}
        >
          <Icon name="download" />
        </button>
      )}
    </div>
  );
}

function saveAs(data: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
