/** A person's text as elements: links, marks, big emoji. Everything is a text node; nothing is ever read as markup. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { emojiOnly, type Piece, pieces, shortened } from "../model/format";
import { t } from "../model/i18n";

const SHORT_CHARACTERS = 1_200;
const SHORT_LINES = 24;

/** *onLink* may take a link that belongs to the app itself and answer true. */
export function Text({ text, time, onLink }: { text: string; time: string; onLink: (href: string) => boolean }) {
  const [whole, setWhole] = useState(false);
  const shown = whole ? text : shortened(text, SHORT_CHARACTERS, SHORT_LINES);
  const emoji = emojiOnly(text);
  return (
    <>
      <div class={emoji ? `text text-emoji text-emoji-${emoji}` : "text"} dir="auto" data-time={time}>
        <span class="words">
          {elements(pieces(shown), onLink)}
          {shown.length < text.length && "…"}
        </span>
      </div>
      {shown.length < text.length && (
        <button type="button" class="link-button" onClick={() => setWhole(true)}>
          {t("message.more")}
        </button>
      )}
    </>
  );
}

function elements(list: Piece[], onLink: (href: string) => boolean): ComponentChildren[] {
  return list.map((each) => {
    switch (each.kind) {
      case "text":
        return each.text;
      case "link":
        return (
          <a
            href={each.href}
            target="_blank"
            rel="noopener noreferrer nofollow"
            onClick={(event) => {
              event.stopPropagation();
              if (onLink(each.href)) event.preventDefault();
            }}
          >
            <bdi>{each.text}</bdi>
            {each.host && <bdi class="link-host"> ({each.host})</bdi>}
          </a>
        );
      case "bold":
        return <strong>{elements(each.children, onLink)}</strong>;
      case "italic":
        return <em>{elements(each.children, onLink)}</em>;
      case "struck":
        return <s>{elements(each.children, onLink)}</s>;
      case "mono":
        return <code>{elements(each.children, onLink)}</code>;
      default:
        return <pre>{elements(each.children, onLink)}</pre>;
    }
  });
}
