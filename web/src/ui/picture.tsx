/** A photo in a bubble: its blurred placeholder, then the picture; loaded at a tap where a stranger sent it. */

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { thumbHashToRGBA } from "thumbhash";
import type { Message } from "../client/api";
import { failureOf } from "../model/app";
import type { Conversation } from "../model/conversation";
import { size, t } from "../model/i18n";
import { sentence } from "./context";
import { Icon } from "./icons";
import { useObjectUrl } from "./parts";

interface Props {
  message: Message;
  conversation: Conversation;
  stranger: boolean;
  onOpen: () => void;
}

const WIDTH_PX = 300;
const HEIGHT_PX = 360;

export function Picture({ message, conversation, stranger, onOpen }: Props) {
  const { media } = message;
  const blob = useSignal<Blob | null>(null);
  const problem = useSignal("");
  const asked = useSignal(!stranger || message.mine);
  const url = useObjectUrl(blob.value);
  const gone = media?.state === "gone";
  const key = conversation.keyOf(message);
  useEffect(() => {
    if (!asked.value || gone) return;
    let here = true;
    problem.value = "";
    conversation.media(message).then(
      (got) => {
        if (here) blob.value = got;
      },
      (error) => {
        if (here) problem.value = sentence(failureOf(error));
      },
    );
    return () => {
      here = false;
    };
  }, [key, asked.value, gone]);
  if (!media) return null;
  const known = media.width > 0 && media.height > 0;
  const [wide, high] = known ? [media.width, media.height] : [4, 3];
  const ratio = Math.max(0.5, Math.min(2.4, wide / high));
  const width = Math.round(Math.min(WIDTH_PX, HEIGHT_PX * ratio));
  const failed = gone
    ? t("error.file_gone")
    : problem.value || (media.state === "failed" ? t("message.photoFailed") : "");
  const busy = !failed && (media.state === "loading" || media.state === "uploading" || (asked.value && !url));
  const label = [t("message.photo"), message.text.slice(0, 100)].filter(Boolean).join(": ");
  return (
    <div class="picture" style={{ inlineSize: `${width}px`, aspectRatio: String(ratio) }}>
      <Blur hash={media.thumbhash} />
      {url && !failed && (
        <button type="button" class="picture-open" aria-label={t("message.open", { what: label })} onClick={onOpen}>
          <img src={url} alt={label} decoding="async" onError={() => (problem.value = t("error.file_not_a_picture"))} />
        </button>
      )}
      {!asked.value && !failed && (
        <button type="button" class="picture-ask" onClick={() => (asked.value = true)}>
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
                asked.value = false;
                queueMicrotask(() => (asked.value = true));
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
