/**
 * A photo in a bubble: its blurred placeholder, then the picture; nothing is loaded for a chat that is not accepted.
 *
 * Whether it is a picture is decided by its bytes, which the engine has looked at: what is none becomes a file.
 */

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { thumbHashToRGBA } from "thumbhash";
import type { Message } from "../client/api";
import type { Conversation } from "../model/conversation";
import { failureOf } from "../model/failures";
import { size, t } from "../model/i18n";
import { sentence, useApp } from "./context";
import { FileCard, type Shut } from "./file";
import { Icon } from "./icons";
import { useObjectUrl } from "./parts";
import { isPicture } from "./words";

interface Props {
  message: Message;
  conversation: Conversation;
  /** Why nothing is fetched for the chat; null: it is. */
  shut: Shut | null;
  onOpen: () => void;
}

const WIDTH_PX = 300;
const HEIGHT_PX = 360;
/** A larger one is loaded at a tap. */
const UNASKED_BYTES_MOST = 16e6;

export function Picture(props: Props) {
  const { message, conversation, shut } = props;
  if (isPicture(message)) return <Photo {...props} />;
  return <FileCard message={message} conversation={conversation} shut={shut} />;
}

function Photo({ message, conversation, shut, onOpen }: Props) {
  const app = useApp();
  const { media } = message;
  const blob = useSignal<Blob | null>(null);
  const problem = useSignal("");
  /** Whether what was the matter may be over by itself. */
  const passing = useSignal(false);
  const tries = useSignal(0);
  const broken = useSignal(false);
  const tapped = useSignal(false);
  const online = useComputed(() => app.status.value?.connection.state === "online").value;
  const url = useObjectUrl(blob.value);
  const gone = media?.state === "gone";
  const here = media?.state === "here" || media?.state === "uploading";
  const closed = here ? null : shut;
  const asked = !closed && (here || tapped.value || (media?.size ?? 0) <= UNASKED_BYTES_MOST);
  const key = conversation.keyOf(message);
  useEffect(() => {
    if (!asked || gone) return;
    let shown = true;
    problem.value = "";
    conversation.media(message).then(
      (got) => {
        if (shown) blob.value = got;
      },
      (error) => {
        if (!shown) return;
        const failure = failureOf(error);
        passing.value = failure.code === "offline" || failure.code === "later";
        problem.value = sentence(failure);
      },
    );
    return () => {
      shown = false;
    };
  }, [key, asked, gone, tries.value]);
  useEffect(() => {
    if (online && problem.peek() && passing.peek()) tries.value += 1;
  }, [online]);
  if (!media) return null;
  if (blob.value && (broken.value || !blob.value.type.startsWith("image/"))) {
    const why = t("message.notPicture");
    return <FileCard message={message} conversation={conversation} shut={shut} why={why} />;
  }
  const known = media.width > 0 && media.height > 0;
  const [wide, high] = known ? [media.width, media.height] : [4, 3];
  const ratio = Math.max(0.5, Math.min(2.4, wide / high));
  const width = Math.round(Math.min(WIDTH_PX, HEIGHT_PX * ratio));
  const failed = gone
    ? t("error.file_gone")
    : problem.value || (media.state === "failed" ? t("message.photoFailed") : "");
  const busy = !failed && (media.state === "loading" || media.state === "uploading" || (asked && !url));
  const label = [t("message.photo"), message.text.slice(0, 100)].filter(Boolean).join(": ");
  return (
    <div class="picture" style={{ inlineSize: `${width}px`, aspectRatio: String(ratio) }}>
      <Blur hash={media.thumbhash} />
      {url && !failed && (
        <button type="button" class="picture-open" aria-label={t("message.open", { what: label })} onClick={onOpen}>
          <img src={url} alt={label} decoding="async" onError={() => (broken.value = true)} />
        </button>
      )}
      {closed && !failed && (
        <div class="picture-ask">
          <Icon name="picture" />
          <span>{t(closed)}</span>
        </div>
      )}
      {!asked && !closed && !failed && (
        <button type="button" class="picture-ask" onClick={() => (tapped.value = true)}>
          <Icon name="download" />
          <span>{t("message.load", { size: size(media.size) })}</span>
        </button>
      )}
      {failed && (
        <div class="picture-failed">
          <Icon name="warning" />
          <span>{failed}</span>
          {!gone && (
            <button
              type="button"
              class="button button-small"
              onClick={() => {
                problem.value = "";
                tapped.value = true;
                tries.value += 1;
              }}
            >
              {t("common.again")}
            </button>
          )}
        </div>
      )}
      {busy && (
        <Ring part={media.progress} label={t(media.state === "uploading" ? "message.uploading" : "message.loading")} />
      )}
    </div>
  );
}

export function Blur({ hash }: { hash: Uint8Array }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useLayoutEffect(() => {
    const element = canvas.current;
    if (!element || hash.length < 5) return;
    try {
      const { w, h, rgba } = thumbHashToRGBA(hash);
      element.width = w;
      element.height = h;
      element.getContext("2d")?.putImageData(new ImageData(new Uint8ClampedArray(rgba), w, h), 0, 0);
    } catch {
      // No placeholder: the box keeps its colour.
    }
  }, [hash]);
  return <canvas class="blur" ref={canvas} width={1} height={1} />;
}

function Ring({ part, label }: { part: number; label: string }) {
  const turn = 2 * Math.PI * 17;
  return (
    <svg class={part > 0 ? "ring" : "ring ring-turning"} viewBox="0 0 44 44" role="img" aria-label={label}>
      <circle class="ring-back" cx="22" cy="22" r="22" />
      <circle
        class="ring-part"
        cx="22"
        cy="22"
        r="17"
        stroke-dasharray={turn}
        stroke-dashoffset={turn * (1 - (part || 0.25))}
      />
    </svg>
  );
}
