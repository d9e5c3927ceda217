/** What the page may ask of the engine in its worker, by name; both sides of the calls refer to it. */

import type { Engine } from "./client/api";
import type { Methods } from "./rpc";

export const METHODS: Methods<Engine> = {
  status: true,
  join: true,
  inspectLink: true,
  setProfile: true,
  add: true,
  chats: true,
  chat: true,
  messages: true,
  sendText: true,
  sendPhoto: true,
  media: true,
  retry: true,
  markRead: true,
  typing: true,
  accept: true,
  ignore: true,
  block: true,
  unblock: true,
  setChat: true,
  search: true,
  safetyNumber: true,
  compare: true,
  setVerified: true,
  knows: true,
  deleteAccount: true,
  takeOver: true,
  setPush: true,
  pushKey: true,
  hurry: true,
};
