//! Maps OpenMLS' and hpke-rs' traits to the primitives of the two suites of Taube; glue, no cryptography of its own.
//!
//! Suites: 0x0001 (X25519, AES-128-GCM, SHA-256, Ed25519) and 0x004F (the same with X-Wing as its KEM). Everything else is
//! refused, so that nothing else is linked. Randomness comes from the host through WASI `random_get`.

use aes_gcm::{
    Aes128Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use hpke_rs::{Hpke, HpkePrivateKey, HpkePublicKey, Mode};
use hpke_rs_crypto::{
    HpkeCrypto, HpkeTestRng, TryCryptoRng, TryRng,
    error::Error as HpkeCryptoError,
    types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm},
};
use openmls_traits::{
    OpenMlsProvider,
    crypto::OpenMlsCrypto,
    random::OpenMlsRand,
    types::{
        AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeAeadType, HpkeCiphertext, HpkeConfig, HpkeKdfType,
        HpkeKemType, HpkeKeyPair, KemOutput, SignatureScheme,
    },
};
use sha2::{Digest as _, Sha256};
use tls_codec::SecretVLBytes;
use x_wing::{Decapsulate as _, Decapsulator as _, Encapsulate as _, KeyExport as _, TryKeyInit as _};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

use crate::storage::Storage;

pub const CLASSIC: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
pub const HYBRID: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;

const NONCE_SIZE: usize = 12;

/// What OpenMLS is given: our crypto, the host's randomness, the rows of the loaded scopes.
#[derive(Default)]
pub struct Provider {
    crypto: Crypto,
    pub storage: Storage,
}

impl OpenMlsProvider for Provider {
    type CryptoProvider = Crypto;
    type RandProvider = Crypto;
    type StorageProvider = Storage;

    fn storage(&self) -> &Storage {
        &self.storage
    }
    fn crypto(&self) -> &Crypto {
        &self.crypto
    }
    fn rand(&self) -> &Crypto {
        &self.crypto
    }
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Crypto;

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).expect("the host gives randomness");
    bytes
}

pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

pub fn seal(key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
    let nonce: [u8; NONCE_SIZE] = nonce.try_into().ok()?;
    let cipher = Aes128Gcm::new_from_slice(key).ok()?;
    cipher.encrypt(&nonce.into(), Payload { msg: plaintext, aad }).ok()
}

pub fn open(key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8]) -> Option<Vec<u8>> {
    let nonce: [u8; NONCE_SIZE] = nonce.try_into().ok()?;
    let cipher = Aes128Gcm::new_from_slice(key).ok()?;
    cipher.decrypt(&nonce.into(), Payload { msg: ciphertext, aad }).ok()
}

/// An Ed25519 key pair from its 32-byte secret; returns (public key).
pub fn ed25519_public(secret: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(secret).verifying_key().to_bytes()
}

pub fn ed25519_sign(secret: &[u8; 32], message: &[u8]) -> [u8; 64] {
    SigningKey::from_bytes(secret).sign(message).to_bytes()
}

/// Strict verification: small-order keys and non-canonical signatures are refused.
pub fn ed25519_verify(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(public), Ok(signature)) = (<&[u8; 32]>::try_from(public), Signature::from_slice(signature)) else {
        return false;
    };
    VerifyingKey::from_bytes(public).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

pub fn x25519_public(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

const STRANGER_INFO: &[u8] = b"taube stranger v1";
const STRANGER_ENC_SIZE: usize = 32;

fn stranger_hpke() -> Hpke<Crypto> {
    Hpke::new(Mode::Base, KemAlgorithm::DhKem25519, KdfAlgorithm::HkdfSha256, AeadAlgorithm::Aes128Gcm)
}

/// HPKE to a device that we share no group with: enc (32 bytes) ‖ ciphertext.
pub fn seal_to_stranger(public: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
    let (mut enc, ciphertext) =
        stranger_hpke().seal(&HpkePublicKey::from(public), STRANGER_INFO, b"", plaintext, None, None, None).ok()?;
    enc.extend_from_slice(&ciphertext);
    Some(enc)
}

pub fn open_from_stranger(secret: &[u8; 32], body: &[u8]) -> Option<Vec<u8>> {
    let (enc, ciphertext) = body.split_at_checked(STRANGER_ENC_SIZE)?;
    stranger_hpke().open(enc, &HpkePrivateKey::from(&secret[..]), STRANGER_INFO, b"", ciphertext, None, None, None).ok()
}

fn is_sha256(hash: HashType) -> Result<(), CryptoError> {
    if hash == HashType::Sha2_256 { Ok(()) } else { Err(CryptoError::UnsupportedHashAlgorithm) }
}

fn is_aes128(aead: AeadType) -> Result<(), CryptoError> {
    if aead == AeadType::Aes128Gcm { Ok(()) } else { Err(CryptoError::UnsupportedAeadAlgorithm) }
}

fn hpke(config: &HpkeConfig) -> Result<Hpke<Crypto>, CryptoError> {
    let kem = match config.0 {
        HpkeKemType::DhKem25519 => KemAlgorithm::DhKem25519,
        HpkeKemType::XWingKemDraft6 => KemAlgorithm::XWingDraft06,
        _ => return Err(CryptoError::UnsupportedCiphersuite),
    };
    match (&config.1, &config.2) {
        (HpkeKdfType::HkdfSha256, HpkeAeadType::AesGcm128) => {
            Ok(Hpke::new(Mode::Base, kem, KdfAlgorithm::HkdfSha256, AeadAlgorithm::Aes128Gcm))
        }
        _ => Err(CryptoError::UnsupportedCiphersuite),
    }
}

impl OpenMlsCrypto for Crypto {
    fn supports(&self, ciphersuite: Ciphersuite) -> Result<(), CryptoError> {
        if ciphersuite == CLASSIC || ciphersuite == HYBRID { Ok(()) } else { Err(CryptoError::UnsupportedCiphersuite) }
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        vec![CLASSIC, HYBRID]
    }

    fn hkdf_extract(&self, hash_type: HashType, salt: &[u8], ikm: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        is_sha256(hash_type)?;
        Ok(Hkdf::<Sha256>::extract(Some(salt), ikm).0.as_slice().into())
    }

    fn hmac(&self, hash_type: HashType, key: &[u8], message: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        is_sha256(hash_type)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| CryptoError::InvalidLength)?;
        mac.update(message);
        Ok(mac.finalize().into_bytes().as_slice().into())
    }

    fn hkdf_expand(&self, hash_type: HashType, prk: &[u8], info: &[u8], okm_len: usize) -> Result<SecretVLBytes, CryptoError> {
        is_sha256(hash_type)?;
        let hkdf = Hkdf::<Sha256>::from_prk(prk).map_err(|_| CryptoError::HkdfOutputLengthInvalid)?;
        let mut okm = vec![0u8; okm_len];
        hkdf.expand(info, &mut okm).map_err(|_| CryptoError::HkdfOutputLengthInvalid)?;
        Ok(okm.into())
    }

    fn hash(&self, hash_type: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        is_sha256(hash_type)?;
        Ok(Sha256::digest(data).to_vec())
    }

    fn aead_encrypt(&self, alg: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Result<Vec<u8>, CryptoError> {
        is_aes128(alg)?;
        seal(key, nonce, aad, data).ok_or(CryptoError::CryptoLibraryError)
    }

    fn aead_decrypt(&self, alg: AeadType, key: &[u8], ct_tag: &[u8], nonce: &[u8], aad: &[u8]) -> Result<Vec<u8>, CryptoError> {
        is_aes128(alg)?;
        open(key, nonce, aad, ct_tag).ok_or(CryptoError::AeadDecryptionError)
    }

    fn signature_key_gen(&self, alg: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        if alg != SignatureScheme::ED25519 {
            return Err(CryptoError::UnsupportedSignatureScheme);
        }
        let secret = random::<32>();
        Ok((secret.to_vec(), ed25519_public(&secret).to_vec()))
    }

    fn verify_signature(&self, alg: SignatureScheme, data: &[u8], pk: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if alg != SignatureScheme::ED25519 {
            return Err(CryptoError::UnsupportedSignatureScheme);
        }
        if ed25519_verify(pk, data, signature) { Ok(()) } else { Err(CryptoError::InvalidSignature) }
    }

    fn sign(&self, alg: SignatureScheme, data: &[u8], key: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if alg != SignatureScheme::ED25519 {
            return Err(CryptoError::UnsupportedSignatureScheme);
        }
        let secret = <&[u8; 32]>::try_from(key).map_err(|_| CryptoError::InvalidLength)?;
        Ok(ed25519_sign(secret, data).to_vec())
    }

    fn hpke_seal(&self, config: HpkeConfig, pk_r: &[u8], info: &[u8], aad: &[u8], ptxt: &[u8]) -> Result<HpkeCiphertext, CryptoError> {
        let (kem_output, ciphertext) =
            hpke(&config)?.seal(&pk_r.into(), info, aad, ptxt, None, None, None).map_err(|_| CryptoError::HpkeEncryptionError)?;
        Ok(HpkeCiphertext { kem_output: kem_output.into(), ciphertext: ciphertext.into() })
    }

    fn hpke_open(&self, config: HpkeConfig, input: &HpkeCiphertext, sk_r: &[u8], info: &[u8], aad: &[u8]) -> Result<Vec<u8>, CryptoError> {
        hpke(&config)?
            .open(input.kem_output.as_slice(), &sk_r.into(), info, aad, input.ciphertext.as_slice(), None, None, None)
            .map_err(|_| CryptoError::HpkeDecryptionError)
    }

    fn hpke_setup_sender_and_export(
        &self,
        config: HpkeConfig,
        pk_r: &[u8],
        info: &[u8],
        exporter_context: &[u8],
        exporter_length: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        let (kem_output, context) =
            hpke(&config)?.setup_sender(&pk_r.into(), info, None, None, None).map_err(|_| CryptoError::SenderSetupError)?;
        let secret = context.export(exporter_context, exporter_length).map_err(|_| CryptoError::ExporterError)?;
        Ok((kem_output, secret.into()))
    }

    fn hpke_setup_receiver_and_export(
        &self,
        config: HpkeConfig,
        enc: &[u8],
        sk_r: &[u8],
        info: &[u8],
        exporter_context: &[u8],
        exporter_length: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        let context = hpke(&config)?
            .setup_receiver(enc, &sk_r.into(), info, None, None, None)
            .map_err(|_| CryptoError::ReceiverSetupError)?;
        Ok(context.export(exporter_context, exporter_length).map_err(|_| CryptoError::ExporterError)?.into())
    }

    fn derive_hpke_keypair(&self, config: HpkeConfig, ikm: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        let (private, public) = hpke(&config)?.derive_key_pair(ikm).map_err(|_| CryptoError::CryptoLibraryError)?.into_keys();
        Ok(HpkeKeyPair { private: private.as_slice().into(), public: public.as_slice().into() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

impl std::fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the host gave no randomness")
    }
}

impl std::error::Error for NoRandomness {}

impl OpenMlsRand for Crypto {
    type Error = NoRandomness;

    fn random_array<const N: usize>(&self) -> Result<[u8; N], NoRandomness> {
        let mut bytes = [0u8; N];
        getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(bytes)
    }

    fn random_vec(&self, len: usize) -> Result<Vec<u8>, NoRandomness> {
        let mut bytes = vec![0u8; len];
        getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(bytes)
    }
}

/// hpke-rs' source of randomness: the host, without a generator in between.
pub struct HostRandomness;

impl Zeroize for HostRandomness {
    fn zeroize(&mut self) {}
}

impl TryRng for HostRandomness {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(random()))
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(random()))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        getrandom::fill(bytes).expect("the host gives randomness");
        Ok(())
    }
}

impl TryCryptoRng for HostRandomness {}

impl HpkeTestRng for HostRandomness {
    type Error = core::convert::Infallible;

    fn try_fill_test_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.try_fill_bytes(bytes)
    }
    fn seed(&mut self, _: &[u8]) {}
}

impl HpkeCrypto for Crypto {
    type HpkePrng = HostRandomness;

    fn name() -> String {
        "taube".into()
    }

    fn supports_kdf(alg: KdfAlgorithm) -> Result<(), HpkeCryptoError> {
        if matches!(alg, KdfAlgorithm::HkdfSha256) { Ok(()) } else { Err(HpkeCryptoError::UnknownKdfAlgorithm) }
    }

    fn supports_kem(alg: KemAlgorithm) -> Result<(), HpkeCryptoError> {
        match alg {
            KemAlgorithm::DhKem25519 | KemAlgorithm::XWingDraft06 => Ok(()),
            _ => Err(HpkeCryptoError::UnknownKemAlgorithm),
        }
    }

    fn supports_aead(alg: AeadAlgorithm) -> Result<(), HpkeCryptoError> {
        if matches!(alg, AeadAlgorithm::Aes128Gcm) { Ok(()) } else { Err(HpkeCryptoError::UnknownAeadAlgorithm) }
    }

    fn prng() -> HostRandomness {
        HostRandomness
    }

    fn kdf_extract(alg: KdfAlgorithm, salt: &[u8], ikm: &[u8]) -> Result<Vec<u8>, HpkeCryptoError> {
        Self::supports_kdf(alg)?;
        Ok(Hkdf::<Sha256>::extract(Some(salt), ikm).0.to_vec())
    }

    fn kdf_expand(alg: KdfAlgorithm, prk: &[u8], info: &[u8], output_size: usize) -> Result<Vec<u8>, HpkeCryptoError> {
        Self::supports_kdf(alg)?;
        let hkdf = Hkdf::<Sha256>::from_prk(prk).map_err(|_| HpkeCryptoError::HpkeInvalidOutputLength)?;
        let mut okm = vec![0u8; output_size];
        hkdf.expand(info, &mut okm).map_err(|_| HpkeCryptoError::HpkeInvalidOutputLength)?;
        Ok(okm)
    }

    fn dh(alg: KemAlgorithm, pk: &[u8], sk: &[u8]) -> Result<Vec<u8>, HpkeCryptoError> {
        if alg != KemAlgorithm::DhKem25519 {
            return Err(HpkeCryptoError::UnknownKemAlgorithm);
        }
        let secret = <[u8; 32]>::try_from(sk).map_err(|_| HpkeCryptoError::KemInvalidSecretKey)?;
        let public = <[u8; 32]>::try_from(pk).map_err(|_| HpkeCryptoError::KemInvalidPublicKey)?;
        let shared = StaticSecret::from(secret).diffie_hellman(&PublicKey::from(public));
        if !shared.was_contributory() {
            return Err(HpkeCryptoError::KemInvalidPublicKey);
        }
        Ok(shared.as_bytes().to_vec())
    }

    fn secret_to_public(alg: KemAlgorithm, sk: &[u8]) -> Result<Vec<u8>, HpkeCryptoError> {
        if alg != KemAlgorithm::DhKem25519 {
            return Err(HpkeCryptoError::UnsupportedKemOperation);
        }
        let secret = <&[u8; 32]>::try_from(sk).map_err(|_| HpkeCryptoError::KemInvalidSecretKey)?;
        Ok(x25519_public(secret).to_vec())
    }

    fn kem_key_gen(alg: KemAlgorithm, _: &mut HostRandomness) -> Result<(Vec<u8>, Vec<u8>), HpkeCryptoError> {
        let secret = random::<32>();
        match alg {
            KemAlgorithm::DhKem25519 => Ok((x25519_public(&secret).to_vec(), secret.to_vec())),
            _ => Self::kem_key_gen_derand(alg, &secret),
        }
    }

    fn kem_key_gen_derand(alg: KemAlgorithm, seed: &[u8]) -> Result<(Vec<u8>, Vec<u8>), HpkeCryptoError> {
        let secret = x_wing_secret(alg, seed)?;
        Ok((secret.encapsulation_key().to_bytes().to_vec(), secret.as_bytes().to_vec()))
    }

    fn kem_encaps(alg: KemAlgorithm, pk_r: &[u8], prng: &mut HostRandomness) -> Result<(Vec<u8>, Vec<u8>), HpkeCryptoError> {
        Self::supports_kem(alg)?;
        let public = x_wing::EncapsulationKey::new_from_slice(pk_r).map_err(|_| HpkeCryptoError::KemInvalidPublicKey)?;
        let (ciphertext, shared) = public.encapsulate_with_rng(prng);
        Ok((shared.to_vec(), ciphertext.to_vec()))
    }

    fn kem_decaps(alg: KemAlgorithm, ct: &[u8], sk_r: &[u8]) -> Result<Vec<u8>, HpkeCryptoError> {
        let ciphertext = x_wing::Ciphertext::try_from(ct).map_err(|_| HpkeCryptoError::KemInvalidCiphertext)?;
        Ok(x_wing_secret(alg, sk_r)?.decapsulate(&ciphertext).to_vec())
    }

    fn dh_validate_sk(_: KemAlgorithm, _: &[u8]) -> Result<Vec<u8>, HpkeCryptoError> {
        Err(HpkeCryptoError::UnknownKemAlgorithm)
    }

    fn aead_seal(alg: AeadAlgorithm, key: &[u8], nonce: &[u8], aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, HpkeCryptoError> {
        Self::supports_aead(alg)?;
        seal(key, nonce, aad, msg).ok_or(HpkeCryptoError::AeadInvalidNonce)
    }

    fn aead_open(alg: AeadAlgorithm, key: &[u8], nonce: &[u8], aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, HpkeCryptoError> {
        Self::supports_aead(alg)?;
        open(key, nonce, aad, msg).ok_or(HpkeCryptoError::AeadOpenError)
    }
}

fn x_wing_secret(alg: KemAlgorithm, seed: &[u8]) -> Result<x_wing::DecapsulationKey, HpkeCryptoError> {
    if alg != KemAlgorithm::XWingDraft06 {
        return Err(HpkeCryptoError::UnsupportedKemOperation);
    }
    let seed = <[u8; 32]>::try_from(seed).map_err(|_| HpkeCryptoError::KemInvalidSecretKey)?;
    Ok(x_wing::DecapsulationKey::from(seed))
}
