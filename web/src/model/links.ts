/** Links of Taube in what people paste, which often is the whole message that they were sent. This file knows no DOM. */

const LINK = /https?:\/\/[^\s/?#<>"]{1,262}\/[ic]#[\w-]+/;

/** The first invitation or contact link in *text*; empty if there is none. */
export function linkIn(text: string): string {
  return LINK.exec(text)?.[0] ?? "";
}
