/** A photo, large: pinch, double tap, wheel or keys make it larger; a swipe down, Escape or going back close it. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Message } from "../client/api";
import type { Conversation } from "../model/conversation";
import { failureOf } from "../model/failures";
import { fileName, plain } from "../model/format";
import { day, t, time } from "../model/i18n";
import { say, sentence, useApp } from "./context";
import { Dialog, shut } from "./dialog";
import { Icon } from "./icons";
import { Problem, useObjectUrl } from "./parts";
import { personOf } from "./words";

const SCALE_MOST = 6;
const CLOSE_PX = 110;
const TAP_MS = 300;

export function Viewer({
  message,
  conversation,
  onClose,
}: {
  message: Message;
  conversation: Conversation;
  onClose: () => void;
}) {
  const { platform } = useApp();
  const blob = useSignal<Blob | null>(null);
  const problem = useSignal("");
  const url = useObjectUrl(blob.value);
  const name = fileName(message.media?.name ?? "", blob.value?.type ?? "") || "photo";
  const stage = useRef<HTMLDivElement>(null);
  const picture = useRef<HTMLImageElement>(null);
  const view = useRef({ scale: 1, x: 0, y: 0, tapMs: 0, points: new Map<number, { x: number; y: number }>() });
  useEffect(() => {
    conversation.media(message).then(
      (got) => {
        if (got.type.startsWith("image/")) blob.value = got;
        else problem.value = t("message.notPicture");
      },
      (error) => (problem.value = sentence(failureOf(error))),
    );
  }, []);
  const draw = (smooth = false) => {
    const image = picture.current;
    if (!image) return;
    const { scale, x, y } = view.current;
    image.classList.toggle("smooth", smooth);
    image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  };
  const zoom = (scale: number, smooth = true) => {
    view.current.scale = Math.max(1, Math.min(SCALE_MOST, scale));
    if (view.current.scale === 1) Object.assign(view.current, { x: 0, y: 0 });
    draw(smooth);
  };
  const onDown = (event: PointerEvent) => {
    (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
    view.current.points.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (view.current.points.size > 1) return;
    const now = platform.now();
    if (now - view.current.tapMs < TAP_MS) zoom(view.current.scale > 1 ? 1 : 2.5);
    view.current.tapMs = now;
  };
  const onMove = (event: PointerEvent) => {
    const { points } = view.current;
    const before = points.get(event.pointerId);
    if (!before) return;
    const [one, two] = [...points.values()];
    if (points.size === 2 && one && two) {
      const old = Math.hypot(one.x - two.x, one.y - two.y);
      points.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const [a, b] = [...points.values()];
      if (a && b && old > 0) zoom(view.current.scale * (Math.hypot(a.x - b.x, a.y - b.y) / old), false);
      return;
    }
    points.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (view.current.scale > 1) view.current.x += event.clientX - before.x;
    view.current.y += event.clientY - before.y;
    draw();
  };
  const onUp = (event: PointerEvent) => {
    view.current.points.delete(event.pointerId);
    if (view.current.scale > 1 || view.current.points.size > 0) return;
    if (view.current.y > CLOSE_PX) {
      if (stage.current) shut(stage.current);
      return;
    }
    Object.assign(view.current, { x: 0, y: 0 });
    draw(true);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "+" || event.key === "=") zoom(view.current.scale * 1.4);
    else if (event.key === "-") zoom(view.current.scale / 1.4);
    else if (event.key === "0") zoom(1);
  };
  useEffect(() => {
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const share = async () => {
    const file = blob.value && new File([blob.value], name, { type: blob.value.type });
    if (file && !(await platform.share({ file }))) say(t("photo.noShare"), "bad");
  };
  const who = message.mine ? t("chat.you") : personOf(message.senderName);
  return (
    <Dialog
      title={t("photo.of", { name: who, time: `${day(message.sentAtMs, platform.now())} ${time(message.sentAtMs)}` })}
      kind="photo"
      onClose={onClose}
    >
      <div class="viewer">
        <div
          class="viewer-stage"
          ref={stage}
          onPointerDown={onDown}
          onPointerMove={onMove}
          onPointerUp={onUp}
          onPointerCancel={onUp}
          onWheel={(event) => {
            event.preventDefault();
            zoom(view.current.scale * (event.deltaY < 0 ? 1.15 : 1 / 1.15), false);
          }}
        >
          {url && (
            <img
              ref={picture}
              src={url}
              alt={message.text || t("message.photo")}
              draggable={false}
              onError={() => (problem.value = t("message.notPicture"))}
            />
          )}
        </div>
        {problem.value && <Problem text={problem.value} />}
        {message.text && (
          <p class="viewer-caption" dir="auto">
            {plain(message.text, 600)}
          </p>
        )}
        <div class="viewer-actions">
          <button
            type="button"
            class="icon-button"
            aria-label={t("photo.larger")}
            onClick={() => zoom(view.current.scale > 1 ? 1 : 2.5)}
          >
            <Icon name="search" />
          </button>
          {platform.canShare() && (
            <button type="button" class="icon-button" aria-label={t("common.share")} onClick={share}>
              <Icon name="share" />
            </button>
          )}
          {url && (
            <a class="icon-button" href={url} download={name} aria-label={t("photo.download")}>
              <Icon name="download" />
            </a>
          )}
        </div>
      </div>
    </Dialog>
  );
}
