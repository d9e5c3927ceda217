/** Cards that offer something once: installing the app, turning notifications on. Whoever closes one is not asked again. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { failureOf } from "../model/failures";
import { t } from "../model/i18n";
import { say, sentence, useApp } from "./context";
import { Icon, type IconName } from "./icons";

const PHONES = new Set(["ios", "android"]);

/** One card at most above the chats. */
export function ListCard() {
  const app = useApp();
  if (app.update.value) return <UpdateCard />;
  const offers = app.status.value?.push.state === "off" && !app.closed.value.has("push");
  return offers ? <PushCard /> : <InstallCard />;
}

function Card({
  name,
  icon,
  title,
  text,
  children,
}: {
  name: string;
  icon: IconName;
  title: string;
  text: string;
  children?: ComponentChildren;
}) {
  const app = useApp();
  if (app.closed.value.has(name)) return null;
  return (
    <aside class="card" aria-label={title}>
      <Icon name={icon} />
      <div class="card-words">
        <h2>{title}</h2>
        <p>{text}</p>
        {children}
      </div>
      <button
        type="button"
        class="icon-button"
        aria-label={t("card.close", { title })}
        onClick={() => app.closeCard(name)}
      >
        <Icon name="close" size={20} />
      </button>
    </aside>
  );
}

export function InstallCard() {
  const { platform } = useApp();
  const kind = useSignal(platform.install());
  useEffect(() => platform.onInstallChange(() => (kind.value = platform.install())), []);
  if (kind.value === "installed") return null;
  return (
    <Card
      name="install"
      icon="download"
      title={t(PHONES.has(kind.value) ? "install.title" : "install.titleDesktop")}
      text={t(`install.${kind.value}`)}
    >
      {kind.value === "button" && (
        <button
          type="button"
          class="button button-small"
          onClick={async () => {
            if (await platform.askToInstall()) kind.value = "installed";
          }}
        >
          {t("install.do")}
        </button>
      )}
    </Card>
  );
}

/** A new build is on the device and waits for a person's yes. */
function UpdateCard() {
  const app = useApp();
  return (
    <Card name="update" icon="download" title={t("update.title")} text={t("update.text")}>
      <button type="button" class="button button-small" onClick={() => app.update.value?.()}>
        {t("update.do")}
      </button>
    </Card>
  );
}

function PushCard() {
  const app = useApp();
  const busy = useSignal(false);
  if (app.status.value?.push.state !== "off") return null;
  const on = async () => {
    if (busy.peek()) return;
    busy.value = true;
    try {
      await app.turnPushOn();
    } catch (error) {
      say(sentence(failureOf(error)), "bad");
    } finally {
      busy.value = false;
    }
  };
  return (
    <Card name="push" icon="bell" title={t("push.title")} text={t("push.offer")}>
      <button type="button" class="button button-small" disabled={busy.value} onClick={on}>
        {t("push.turnOn")}
      </button>
    </Card>
  );
}
