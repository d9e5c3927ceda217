// A second implementation of a Taube device over ts-mls, for the interop test: reads one JSON request a line, answers one.
//
// It shares no code with the core: MLS from ts-mls, HPKE from @hpke/core, AES-GCM and Ed25519 from Node, and its own few
// lines of MessagePack. What it does stands in docs/protocol/groups.md.

import { Aes128Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core"
import { createCipheriv, createDecipheriv, createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto"
import { createInterface } from "node:readline"
import {
  createApplicationMessage, createCommit, createGroup, decodeMlsMessage, defaultKeyPackageEqualityConfig, defaultPaddingConfig,
  emptyPskIndex, encodeMlsMessage, encodeRequiredCapabilities, generateKeyPackageWithKey, getCiphersuiteFromName,
  getCiphersuiteImpl, joinGroup, mlsExporter, processPrivateMessage,
} from "ts-mls"

const SUITE = "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519"
const LEAF = 0xf0a1
const CONTEXT = 0xf0a2
const LAST_RESORT = 10

const cs = await getCiphersuiteImpl(getCiphersuiteFromName(SUITE))
const hpke = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes128Gcm() })
const config = {
  keyRetentionConfig: { retainKeysForGenerations: 128, retainKeysForEpochs: 8, maximumForwardRatchetSteps: 4096 },
  lifetimeConfig: { maximumTotalLifetime: 10_000_000n, validateLifetimeOnReceive: false },
  keyPackageEqualityConfig: defaultKeyPackageEqualityConfig,
  paddingConfig: defaultPaddingConfig,
  authService: { validateCredential: async (credential) => credential.credentialType === "basic" && credential.identity.length === 48 },
}

const utf8 = (text) => Buffer.from(text, "utf8")
const sha256 = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest()
const u = (bytes) => new Uint8Array(bytes)

// MessagePack, as much as is needed

function pack(value) {
  if (value === null) return Buffer.from([0xc0])
  if (typeof value === "number") {
    if (value < 0x80) return Buffer.from([value])
    const digits = Buffer.alloc(8)
    digits.writeBigUInt64BE(BigInt(value))
    const [marker, width] = value < 0x100 ? [0xcc, 1] : value < 0x10000 ? [0xcd, 2] : value < 2 ** 32 ? [0xce, 4] : [0xcf, 8]
    return Buffer.concat([Buffer.from([marker]), digits.subarray(8 - width)])
  }
  if (Array.isArray(value)) {
    const head = value.length < 16 ? [0x90 | value.length] : [0xdc, value.length >> 8, value.length & 255]
    return Buffer.concat([Buffer.from(head), ...value.map(pack)])
  }
  const head = value.length < 256 ? [0xc4, value.length] : [0xc5, value.length >> 8, value.length & 255]
  return Buffer.concat([Buffer.from(head), value])
}

function unpack(bytes) {
  let at = 0
  const number = (width) => bytes.readUIntBE((at += width) - width, width)
  const next = () => {
    const marker = bytes[at++]
    if (marker < 0x80) return marker
    if (marker === 0xc0) return null
    if (marker >= 0x90 && marker < 0xa0) return Array.from({ length: marker & 15 }, next)
    if (marker === 0xdc) return Array.from({ length: number(2) }, next)
    if (marker >= 0xc4 && marker <= 0xc6) {
      const length = number([1, 2, 4][marker - 0xc4])
      return bytes.subarray(at, (at += length))
    }
    if (marker >= 0xcc && marker <= 0xce) return number([1, 2, 4][marker - 0xcc])
    throw new Error(`unexpected MessagePack marker ${marker}`)
  }
  return next()
}

// Padding and sealing

function padme(size) {
  if (size <= 256) return 256
  const exponent = Math.floor(Math.log2(size))
  const step = 2 ** (exponent - Math.floor(Math.log2(exponent)) - 1)
  return Math.ceil(size / step) * step
}

function pad(tag, payload) {
  const plaintext = Buffer.concat([Buffer.from([tag]), payload, Buffer.from([0x80])])
  return Buffer.concat([plaintext, Buffer.alloc(padme(plaintext.length) - plaintext.length)])
}

function unpad(plaintext) {
  let end = plaintext.length - 1
  while (plaintext[end] === 0) end--
  if (plaintext[end] !== 0x80) throw new Error("wrong padding")
  return [plaintext[0], plaintext.subarray(1, end)]
}

function seal(key, aad, plaintext) {
  const nonce = randomBytes(12)
  const cipher = createCipheriv("aes-128-gcm", key, nonce).setAAD(aad)
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
}

function open(key, aad, sealed) {
  const cipher = createDecipheriv("aes-128-gcm", key, sealed.subarray(0, 12)).setAAD(aad).setAuthTag(sealed.subarray(-16))
  return Buffer.concat([cipher.update(sealed.subarray(12, -16)), cipher.final()])
}

// The account and its one device

const ed25519 = () => {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519")
  return { public: publicKey.export({ type: "spki", format: "der" }).subarray(-32), sign: (bytes) => sign(null, bytes, privateKey) }
}
const account = ed25519()
const login = ed25519()
const mls = await cs.signature.keygen()
const stranger = await hpke.kem.generateKeyPair()
const strangerPublic = Buffer.from(await hpke.kem.serializePublicKey(stranger.publicKey))
const deviceId = randomBytes(16)
const genesis = Buffer.concat([Buffer.from([1]), account.public, ed25519().public])
const accountId = sha256(genesis)
const list = pack([1, accountId, 1, [[deviceId, login.public, Buffer.from(mls.publicKey), strangerPublic]], []])
const certificate = pack([genesis, Buffer.concat([account.sign(Buffer.concat([utf8("taube device list v1"), list])), list])])
const credential = { credentialType: "basic", identity: u(Buffer.concat([accountId, deviceId])) }
const capabilities = { versions: ["mls10"], ciphersuites: [SUITE], extensions: [LEAF, CONTEXT, LAST_RESORT], proposals: [], credentials: ["basic"] }

let state
let own

async function makePackage(address, nowS) {
  const lifetime = { notBefore: BigInt(nowS - 3600), notAfter: BigInt(nowS + 84 * 86400) }
  const leaf = [{ extensionType: LEAF, extensionData: u(pack([address, certificate])) }]
  return generateKeyPackageWithKey(credential, capabilities, lifetime, [], mls, cs, leaf)
}

const exporter = async (label, context, length) =>
  Buffer.from(await mlsExporter(state.keySchedule.exporterSecret, label, u(context), length, cs))
const gateName = (k) => exporter("taube gate", [k], 32)
const encodePrivate = (privateMessage) =>
  Buffer.from(encodeMlsMessage({ version: "mls10", wireformat: "mls_private_message", privateMessage }))

function decode(bytes) {
  const decoded = decodeMlsMessage(u(bytes), 0)
  if (decoded === undefined || decoded[1] !== bytes.length) throw new Error("not an MLS message")
  return decoded[0]
}

async function sealWelcome(publicKey, welcome) {
  const message = encodeMlsMessage({ version: "mls10", wireformat: "mls_welcome", welcome })
  const recipientPublicKey = await hpke.kem.deserializePublicKey(u(publicKey).buffer)
  const sender = await hpke.createSenderContext({ recipientPublicKey, info: utf8("taube stranger v1") })
  const sealed = await sender.seal(u(pad(16, message)))
  return Buffer.concat([Buffer.from(sender.enc), Buffer.from(sealed)])
}

const calls = {
  async me() {
    return { account: accountId, device: deviceId, certificate, genesis }
  },

  async login({ origin, nonce }) {
    const length = Buffer.from([origin.length >> 8, origin.length & 255])
    return { signature: login.sign(Buffer.concat([utf8("taube login v1"), length, utf8(origin), deviceId, nonce])) }
  },

  async package({ address, now_s }) {
    own = await makePackage(address, now_s)
    return { package: Buffer.from(encodeMlsMessage({ version: "mls10", wireformat: "mls_key_package", keyPackage: own.publicPackage })) }
  },

  async found({ group, context, address, now_s }) {
    own = await makePackage(address, now_s)
    const required = encodeRequiredCapabilities({ extensionTypes: [LEAF, CONTEXT], proposalTypes: [], credentialTypes: ["basic"] })
    const extensions = [
      { extensionType: "required_capabilities", extensionData: required },
      { extensionType: CONTEXT, extensionData: u(context) },
    ]
    state = await createGroup(u(group), own.publicPackage, own.privatePackage, extensions, cs, config)
    return {}
  },

  async commit({ k, adds, removes, now_s }) {
    const packages = adds.map(([bytes]) => decode(bytes).keyPackage)
    const extraProposals = [
      ...removes.map((removed) => ({ proposalType: "remove", remove: { removed } })),
      ...packages.map((keyPackage) => ({ proposalType: "add", add: { keyPackage } })),
    ]
    const result = await createCommit({ state, cipherSuite: cs, pskIndex: emptyPskIndex }, { extraProposals, ratchetTreeExtension: true })
    const welcomes = []
    for (const [at, [, hpkeKey]] of adds.entries()) {
      const { extensionData } = packages[at].leafNode.extensions.find(({ extensionType }) => extensionType === LEAF)
      welcomes.push([unpack(Buffer.from(extensionData))[0], await sealWelcome(hpkeKey, result.welcome)])
    }
    const name = await gateName(k)
    const value = pack([encodePrivate(result.commit.privateMessage), welcomes, now_s])
    const answer = { name, value: seal(await exporter("taube gate key", [], 16), name, pad(0, value)), welcomes: welcomes.map(([, body]) => body) }
    state = result.newState
    return answer
  },

  async apply({ k, value }) {
    const [tag, payload] = unpad(open(await exporter("taube gate key", [], 16), await gateName(k), value))
    if (tag !== 0) throw new Error("an unknown kind of gate value")
    const [commit] = unpack(payload)
    const result = await processPrivateMessage(state, decode(commit).privateMessage, emptyPskIndex, cs)
    state = result.newState
    return { kind: result.kind, active: state.groupActiveState.kind }
  },

  async join({ body }) {
    const recipient = await hpke.createRecipientContext({ recipientKey: stranger.privateKey, enc: u(body.subarray(0, 32)), info: utf8("taube stranger v1") })
    const [tag, payload] = unpad(Buffer.from(await recipient.open(u(body.subarray(32)))))
    if (tag !== 16) throw new Error("not a Welcome")
    const { welcome } = decode(payload)
    state = await joinGroup(welcome, own.publicPackage, own.privatePackage, emptyPskIndex, cs, undefined, undefined, config)
    return { group: Buffer.from(state.groupContext.groupId) }
  },

  async protect({ text }) {
    const result = await createApplicationMessage(state, u(text), cs)
    state = result.newState
    return { body: seal(await exporter("taube seal", [], 16), Buffer.alloc(0), pad(0, encodePrivate(result.privateMessage))) }
  },

  async receive({ body }) {
    const [tag, payload] = unpad(open(await exporter("taube seal", [], 16), Buffer.alloc(0), body))
    if (tag !== 0) throw new Error("no message")
    const result = await processPrivateMessage(state, decode(payload).privateMessage, emptyPskIndex, cs)
    state = result.newState
    return { kind: result.kind, text: Buffer.from(result.message ?? []) }
  },

  async read_commit({ body }) {
    const [tag, payload] = unpad(open(await exporter("taube seal", [], 16), Buffer.alloc(0), body))
    const [k, value] = unpack(payload)
    return { tag, k, value }
  },

  async state() {
    return { epoch: Number(state.groupContext.epoch), secret: await exporter("same", [], 32), gate: await gateName(3) }
  },
}

// Bytes travel as {"$": hex}.
const revive = (_, value) => (value !== null && typeof value === "object" && "$" in value ? Buffer.from(value.$, "hex") : value)
const freeze = (value) => {
  if (value instanceof Uint8Array) return { $: Buffer.from(value).toString("hex") }
  if (Array.isArray(value)) return value.map(freeze)
  if (value !== null && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, freeze(part)]))
  return value
}

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...given } = JSON.parse(line, revive)
  if ("now_s" in given) Date.now = () => given.now_s * 1000 // the time is an argument, here too
  let answer
  try {
    answer = freeze(await calls[call](given))
  } catch (error) {
    answer = { error: String(error.stack ?? error) }
  }
  process.stdout.write(JSON.stringify(answer) + "\n")
}
