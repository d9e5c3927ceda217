/** A QR code, dark on light in every theme, and the camera that reads one. */

import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { encode } from "uqr";
import { t } from "../model/i18n";
import { useApp } from "./context";
import { Dialog } from "./dialog";
import { Icon } from "./icons";
import { Problem } from "./parts";
import { Pigeon } from "./pigeon";

const BORDER = 3;
const FRAME_MS = 140;

export function Code({ text, label }: { text: string; label: string }) {
  const { path, size } = useMemo(() => drawing(text), [text]);
  return (
    <svg class="code" viewBox={`0 0 ${size} ${size}`} role="img" aria-label={label} shape-rendering="crispEdges">
      <path class="code-paper" d={`M0 0h${size}v${size}h-${size}z`} />
      <path class="code-ink" d={path} />
    </svg>
  );
}

function drawing(text: string): { path: string; size: number } {
  const code = encode(text, { ecc: "L", border: 0 });
  let path = "";
  code.data.forEach((row, y) => {
    for (let x = 0; x < row.length; x += 1) {
      if (!row[x]) continue;
      const from = x;
      while (row[x + 1]) x += 1;
      path += `M${from + BORDER} ${y + BORDER}h${x - from + 1}v1h-${x - from + 1}z`;
    }
  });
  return { path, size: code.size + 2 * BORDER };
}

/** The camera, until it has read a code; a picture from the device can be chosen instead. */
export function Scanner({
  title,
  hint,
  onCode,
  onClose,
}: {
  title: string;
  hint: string;
  onCode: (text: string) => void;
  onClose: () => void;
}) {
  const { platform } = useApp();
  const video = useRef<HTMLVideoElement>(null);
  const problem = useSignal("");
  const ready = useSignal(false);
  /** There is no camera, or none that we may use. */
  const blind = useSignal(false);
  const done = useRef(false);
  useEffect(() => {
    let stream: MediaStream | null = null;
    let stop = () => {};
    let gone = false;
    const look = async () => {
      const element = video.current;
      if (gone || done.current || !element) return;
      const found = element.readyState >= 2 ? await platform.readCode(element).catch(() => null) : null;
      if (found && !done.current && !gone) {
        done.current = true;
        platform.vibrate(30);
        onCode(found);
        return;
      }
      stop = platform.later(FRAME_MS, look);
    };
    platform.camera().then(
      (got) => {
        stream = got;
        if (gone || !video.current) {
          for (const track of got.getTracks()) track.stop();
          return;
        }
        video.current.srcObject = got;
        video.current.play().catch(() => {});
        ready.value = true;
        look();
      },
      (error: Error) => {
        blind.value = true;
        problem.value = t(error.name === "NotAllowedError" ? "scan.denied" : "scan.none");
      },
    );
    return () => {
      gone = true;
      stop();
      for (const track of stream?.getTracks() ?? []) track.stop();
    };
  }, []);
  const fromFile = async (file: File | undefined) => {
    if (!file) return;
    try {
      const picture = await createImageBitmap(file);
      const found = await platform.readCode(picture);
      picture.close();
      if (found) {
        done.current = true;
        onCode(found);
        return;
      }
    } catch {
      // No picture: the sentence below says what is asked for.
    }
    problem.value = t("scan.nothing");
  };
  return (
    <Dialog title={title} kind="full" onClose={onClose}>
      <div class="scanner">
        {blind.value ? (
          <Pigeon mood="puzzled" />
        ) : (
          <div class={ready.value ? "scanner-view" : "scanner-view scanner-dark"}>
            <video ref={video} muted playsInline aria-label={t("scan.camera")} />
            <div class="scanner-frame" aria-hidden="true" />
          </div>
        )}
        {!blind.value && <p>{hint}</p>}
        {problem.value && <Problem text={problem.value} />}
        <label class="button button-quiet">
          <Icon name="picture" />
          {t("scan.picture")}
          <input
            class="sr-only"
            type="file"
            accept="image/*"
            onChange={(event) => fromFile(event.currentTarget.files?.[0])}
          />
        </label>
      </div>
    </Dialog>
  );
}
