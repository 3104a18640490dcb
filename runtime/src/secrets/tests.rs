use proptest::prelude::*;

use super::*;

fn keys(text: &str) -> MasterKeys {
    MasterKeys::parse(text).unwrap()
}

fn one() -> String {
    MasterKeys::generate().unwrap().expose_secret().to_owned()
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

proptest! {
    #[test]
    fn what_was_sealed_opens_as_it_was(
        text in ".{0,200}",
        title in "[a-zA-Z0-9_.-]{1,64}",
        version in any::<i64>(),
    ) {
        let keys = keys(&one());
        let sealed = keys.seal(&name(&title), version, &secret(&text)).unwrap();
        prop_assert_eq!(&sealed.master_key_id, keys.sealing_id());
        let opened = keys.open(&name(&title), version, &sealed).unwrap();
        prop_assert_eq!(opened.expose_secret(), text);
    }

    #[test]
    fn every_change_is_refused(
        text in "[ -~]{1,64}",
        flip in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<prop::sample::Index>(),
        other_version in any::<i64>(),
    ) {
        let keys = keys(&one());
        let title = name("openai-2");
        let sealed = keys.seal(&title, 3, &secret(&text)).unwrap();
        let refused = |sealed: &Sealed| matches!(keys.open(&title, 3, sealed), Err(SealError::Broken));
        let mut changed = sealed.clone();
        changed.bytes[flip.index(sealed.bytes.len())] ^= 1 << bit;
        prop_assert!(refused(&changed));
        let mut changed = sealed.clone();
        changed.nonce[flip.index(sealed.nonce.len())] ^= 1 << bit;
        prop_assert!(refused(&changed));
        let mut changed = sealed.clone();
        changed.bytes.truncate(cut.index(sealed.bytes.len()));
        prop_assert!(refused(&changed));
        let mut changed = sealed.clone();
        changed.nonce.truncate(cut.index(sealed.nonce.len()));
        prop_assert!(refused(&changed));
        let mut changed = sealed.clone();
        changed.bytes.push(0);
        prop_assert!(refused(&changed));
        prop_assume!(other_version != 3);
        prop_assert!(keys.open(&title, other_version, &sealed).is_err());
        prop_assert!(keys.open(&name("openai-3"), 3, &sealed).is_err());
    }
}

#[test]
fn the_first_key_seals_and_all_open() {
    let (old, new) = (one(), one());
    let title = name("a");
    let sealed = keys(&old).seal(&title, 1, &secret("hunter2")).unwrap();
    let both = keys(&format!(" {new},\n{old} "));
    assert_eq!(both.sealing_id(), keys(&new).sealing_id());
    assert_eq!(
        both.other_ids().collect::<Vec<_>>(),
        [keys(&old).sealing_id()]
    );
    let opened = both.open(&title, 1, &sealed).unwrap();
    assert_eq!(opened.expose_secret(), "hunter2");
    let again = both.seal(&title, 2, &opened).unwrap();
    assert_eq!(again.master_key_id, keys(&new).sealing_id());
    assert!(keys(&new).open(&title, 2, &again).is_ok());
}

#[test]
fn a_wrong_master_key_is_named_by_its_id() {
    let (right, wrong) = (keys(&one()), keys(&one()));
    let sealed = right.seal(&name("a"), 1, &secret("hunter2")).unwrap();
    let error = wrong.open(&name("a"), 1, &sealed).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(right.sealing_id()), "{text}");
    assert!(text.contains(wrong.sealing_id()), "{text}");
    assert!(text.contains("LOCKGATE_MASTER_KEY"), "{text}");
    // A key that claims another's id opens nothing.
    let mut forged = sealed.clone();
    forged.master_key_id = wrong.sealing_id().to_owned();
    assert_eq!(
        wrong.open(&name("a"), 1, &forged).unwrap_err(),
        SealError::Broken
    );
}

#[test]
fn each_seal_has_its_own_nonce() {
    let keys = keys(&one());
    let seal = || keys.seal(&name("a"), 1, &secret("hunter2")).unwrap();
    let (first, second) = (seal(), seal());
    assert_ne!(first.nonce, second.nonce);
    assert_ne!(first.bytes, second.bytes);
}

#[test]
fn what_is_no_key_is_told_by_its_place_and_never_shown() {
    let good = one();
    let short = BASE64.encode(b"hunter2-hunter2");
    let fault = |text: &str| MasterKeys::parse(text).unwrap_err();
    assert_eq!(fault(""), BadMasterKeys::Empty);
    assert_eq!(fault(" , \n"), BadMasterKeys::Empty);
    for bad in ["hunter2", &short, &format!("{good}=")] {
        let fault = fault(&format!("{good},{bad}"));
        assert_eq!(fault, BadMasterKeys::Malformed { place: 2 }, "{bad}");
        assert!(!fault.to_string().contains(bad));
    }
    assert_eq!(
        fault(&format!("{good},{good}")),
        BadMasterKeys::Repeated { place: 2 }
    );
    let shown = format!("{:?}", keys(&good));
    assert!(!shown.contains(&good), "{shown}");
    assert!(shown.contains(keys(&good).sealing_id()), "{shown}");
}

#[test]
fn a_key_id_is_the_beginning_of_its_hash() {
    // SHA-256 of 32 zero bytes is 66687aadf862bd77…
    let keys = keys(&BASE64.encode(&[0; 32]));
    assert_eq!(keys.sealing_id(), "66687aadf862bd77");
}

#[test]
fn names_are_plain() {
    for good in ["a", "openai-2", "A.b_c-1", &"x".repeat(64)] {
        assert_eq!(name(good).as_str(), good);
    }
    for bad in ["", "a b", "ä", "a/b", "a\n", &"x".repeat(65)] {
        assert_eq!(bad.parse::<SecretName>(), Err(BadName), "{bad:?}");
    }
}
