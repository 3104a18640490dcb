//! What was ever written must be readable for ever.
//!
//! `fixtures/vN` holds a sample of every record as framed bytes, with the schemas they were
//! written with. They are frozen: a change of a schema adds a new folder and touches no old one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod samples;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use schemas::control::Cancel;
use schemas::dead_letter::DeadLetter;
use schemas::event::{Event, EventRecord};
use schemas::framing::{self, FramingError, Record};
use schemas::request::{Endpoint, Request};
use schemas::status::Status;
use serde_json::Value as Json;

/// Every version that was ever frozen, oldest first; the last is the current one.
const VERSIONS: [&str; 1] = ["v1"];
/// Schema id in the frames of the fixtures.
const ID: i32 = 1;

fn frozen(version: &str, name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/{version}/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn frozen_schema_text<R: Record>(version: &str) -> String {
    let name = R::SUBJECT.strip_prefix("lockgate.").unwrap();
    String::from_utf8(frozen(version, &format!("{name}.avsc"))).unwrap()
}

fn frozen_schema<R: Record>(version: &str) -> Schema {
    Schema::parse_str(&frozen_schema_text::<R>(version)).unwrap()
}

fn check_fixture<R: Record + PartialEq + std::fmt::Debug>(name: &str, sample: &R) {
    for version in VERSIONS {
        let framed = frozen(version, &format!("{name}.bin"));
        let (id, datum) = framing::split(&framed).unwrap();
        assert_eq!(id, ID);
        let written_with = frozen_schema::<R>(version);
        let record: R = framing::decode(&written_with, datum).unwrap();
        assert_eq!(&record, sample, "{version}/{name}");
    }
    let newest = frozen(VERSIONS[VERSIONS.len() - 1], &format!("{name}.bin"));
    let (_, datum) = framing::split(&newest).unwrap();
    assert_eq!(&framing::decode::<R>(R::schema(), datum).unwrap(), sample);
    assert_eq!(framing::encode(ID, sample).unwrap(), newest, "{name}");
}

#[test]
fn every_fixture_decodes_for_ever_and_encodes_back() {
    for (name, sample) in samples::requests() {
        check_fixture(name, &sample);
    }
    for (name, sample) in samples::events() {
        check_fixture(name, &sample);
    }
    check_fixture("dead-letter", &samples::dead_letter());
    check_fixture("cancel", &samples::cancel());
    check_fixture("status", &samples::status());
}

#[test]
fn the_newest_frozen_schemas_are_the_current_ones() {
    fn check<R: Record>() {
        let newest = frozen_schema_text::<R>(VERSIONS[VERSIONS.len() - 1]);
        assert_eq!(
            newest,
            R::SCHEMA,
            "freeze a changed schema as a new version"
        );
    }
    check::<Request>();
    check::<EventRecord>();
    check::<DeadLetter>();
    check::<Cancel>();
    check::<Status>();
}

#[test]
fn current_schemas_read_what_all_frozen_ones_wrote() {
    fn check<R: Record>() {
        for version in VERSIONS {
            let writer = frozen_schema::<R>(version);
            SchemaCompatibility::can_read(&writer, R::schema())
                .unwrap_or_else(|error| panic!("{} {version}: {error}", R::SUBJECT));
            let writer = serde_json::to_value(&writer).unwrap();
            let reader = serde_json::to_value(R::schema()).unwrap();
            assert_grows(&writer, &reader, R::SUBJECT);
        }
    }
    check::<Request>();
    check::<EventRecord>();
    check::<DeadLetter>();
    check::<Cancel>();
    check::<Status>();
}

/// Stricter than Avro, as `framing` wants it: no promotion, branches of unions only appended.
fn assert_grows(old: &Json, new: &Json, place: &str) {
    match (old, new) {
        (Json::Array(old), Json::Array(new)) => {
            assert!(old.len() <= new.len(), "{place}: a branch is gone");
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                assert_grows(old, new, &format!("{place}[{index}]"));
            }
        }
        (Json::Object(_), Json::Object(_)) => {
            assert_eq!(old["name"], new["name"], "{place}");
            for inner in ["type", "items", "values"] {
                assert_grows(&old[inner], &new[inner], &format!("{place}.{inner}"));
            }
            for old in fields(old) {
                if let Some(new) = fields(new).iter().find(|new| new["name"] == old["name"]) {
                    assert_grows(old, new, &format!("{place}.{}", old["name"]));
                }
            }
        }
        _ => assert_eq!(old, new, "{place}: another type"),
    }
}

fn fields(record: &Json) -> &[Json] {
    record["fields"].as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn a_writer_that_lacks_a_defaulted_field_is_read_with_the_default() {
    let mut checked = 0;
    for (_, sample) in samples::requests() {
        checked += check_defaults(&sample);
    }
    for (_, sample) in samples::events() {
        checked += check_defaults(&sample);
    }
    checked += check_defaults(&samples::dead_letter());
    checked += check_defaults(&samples::cancel());
    checked += check_defaults(&samples::status());
    assert!(checked > 200, "only {checked} combinations");
}

fn check_defaults<R: Record + PartialEq + std::fmt::Debug>(sample: &R) -> usize {
    let framed = framing::encode(ID, sample).unwrap();
    let value = GenericDatumReader::builder(R::schema())
        .build()
        .unwrap()
        .read_value(&mut &framed[5..])
        .unwrap();
    let json: Json = serde_json::from_str(R::SCHEMA).unwrap();
    let mut defaulted = Vec::new();
    collect_defaulted(&json, &mut defaulted);
    for (record, field, default) in &defaulted {
        let mut older = json.clone();
        remove_field(&mut older, record, field);
        let older = Schema::parse_str(&older.to_string()).unwrap();
        let names = owner_fields(&json, record);
        let lacking = rewrite(value.clone(), &names, field, None);
        let expected = rewrite(value.clone(), &names, field, Some(default));
        let read: R = framing::decode(&older, &write(&older, &lacking)).unwrap();
        let expected: R = framing::decode(R::schema(), &write(R::schema(), &expected)).unwrap();
        assert_eq!(read, expected, "{record}.{field}");
    }
    defaulted.len()
}

fn write(schema: &Schema, value: &Value) -> Vec<u8> {
    GenericDatumWriter::builder(schema)
        .validate(false)
        .build()
        .unwrap()
        .write_value_to_vec(value.clone())
        .unwrap()
}

fn collect_defaulted(json: &Json, found: &mut Vec<(String, String, Json)>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| collect_defaulted(item, found)),
        Json::Object(object) => {
            for field in fields(json) {
                // Types defined in a field cannot be dropped with it when others refer to them.
                if let Some(default) = field.get("default")
                    && !field["type"].to_string().contains("\"name\"")
                {
                    let text = |json: &Json| json.as_str().unwrap().to_owned();
                    found.push((text(&json["name"]), text(&field["name"]), default.clone()));
                }
            }
            object
                .values()
                .for_each(|value| collect_defaulted(value, found));
        }
        _ => {}
    }
}

fn remove_field(json: &mut Json, record: &str, field: &str) {
    match json {
        Json::Array(items) => items
            .iter_mut()
            .for_each(|item| remove_field(item, record, field)),
        Json::Object(object) => {
            if object.get("name").and_then(Json::as_str) == Some(record)
                && let Some(Json::Array(fields)) = object.get_mut("fields")
            {
                fields.retain(|entry| entry["name"] != field);
            }
            object
                .values_mut()
                .for_each(|value| remove_field(value, record, field));
        }
        _ => {}
    }
}

/// The field names of a record, by which its (nameless) values are told.
fn owner_fields(json: &Json, record: &str) -> Vec<String> {
    match json {
        Json::Array(items) => items.iter().flat_map(|i| owner_fields(i, record)).collect(),
        Json::Object(object) if json["name"] == record && json.get("fields").is_some() => {
            let _ = object;
            fields(json)
                .iter()
                .map(|field| field["name"].as_str().unwrap().to_owned())
                .collect()
        }
        Json::Object(object) => object
            .values()
            .flat_map(|value| owner_fields(value, record))
            .collect(),
        _ => Vec::new(),
    }
}

/// Drops `field` from every record with exactly `names`, or sets it to `default`.
fn rewrite(value: Value, names: &[String], field: &str, default: Option<&Json>) -> Value {
    match value {
        Value::Record(entries) => {
            let ours = entries.iter().map(|(name, _)| name).eq(names.iter());
            let entries = entries.into_iter().filter_map(|(name, inner)| {
                if ours && name == field {
                    return default.map(|default| (name, of_default(default, &inner)));
                }
                Some((name, rewrite(inner, names, field, default)))
            });
            Value::Record(entries.collect())
        }
        Value::Union(index, inner) => {
            Value::Union(index, Box::new(rewrite(*inner, names, field, default)))
        }
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .map(|item| rewrite(item, names, field, default))
                .collect(),
        ),
        other => other,
    }
}

fn of_default(default: &Json, replaced: &Value) -> Value {
    match (default, replaced) {
        (Json::Null, _) => Value::Union(0, Box::new(Value::Null)),
        (Json::Bool(value), _) => Value::Boolean(*value),
        (Json::Number(value), _) => Value::Long(value.as_i64().unwrap()),
        (Json::Array(_), _) => Value::Array(Vec::new()),
        (Json::Object(_), _) => Value::Map(Default::default()),
        (other, _) => panic!("no such default yet: {other}"),
    }
}

#[test]
fn what_a_newer_writer_adds_is_skipped_or_unknown() {
    let newer = Request::SCHEMA
        .replace(
            r#""ChatCompletions", "Completions""#,
            r#""Rerank", "ChatCompletions", "Completions""#,
        )
        .replace(
            r#"{ "name": "tenant", "type": "string" }"#,
            r#"{ "name": "tenant", "type": "string" },
               { "name": "added", "type": [ "null", "bytes", { "type": "map", "values": "long" } ] }"#,
        );
    let newer = Schema::parse_str(&newer).unwrap();
    let (_, sample) = samples::requests().remove(0);
    let framed = framing::encode(ID, &sample).unwrap();
    let value = GenericDatumReader::builder(Request::schema())
        .build()
        .unwrap()
        .read_value(&mut &framed[5..])
        .unwrap();
    let Value::Record(mut entries) = value else {
        panic!("not a record");
    };
    let added = Value::Map([("x".to_owned(), Value::Long(7))].into());
    entries.insert(2, ("added".to_owned(), Value::Union(2, Box::new(added))));
    for (name, value) in &mut entries {
        if name == "endpoint" {
            *value = Value::Enum(0, "Rerank".to_owned());
        }
    }
    let read: Request = framing::decode(&newer, &write(&newer, &Value::Record(entries))).unwrap();
    let expected = Request {
        endpoint: Endpoint::Unknown,
        ..sample
    };
    assert_eq!(read, expected);
}

#[test]
fn bytes_that_are_not_framed_or_go_on_are_refused() {
    assert!(matches!(framing::split(b""), Err(FramingError::NotFramed)));
    assert!(matches!(
        framing::split(b"\0\0\0\0"),
        Err(FramingError::NotFramed)
    ));
    assert!(matches!(
        framing::split(b"{\"a\":1}"),
        Err(FramingError::NotFramed)
    ));
    assert_eq!(
        framing::split(b"\0\0\0\x01\x02xy").unwrap(),
        (258, &b"xy"[..])
    );
    let mut framed = framing::encode(ID, &samples::cancel()).unwrap().to_vec();
    framed.push(0);
    assert!(matches!(
        framing::decode::<Cancel>(Cancel::schema(), &framed[5..]),
        Err(FramingError::Trailing(1))
    ));
}

#[test]
fn every_kind_of_event_has_a_fixture() {
    let kind = |event: &Event| std::mem::discriminant(event);
    let kinds: std::collections::HashSet<_> = samples::events()
        .iter()
        .flat_map(|(_, record)| record.events.iter().map(kind))
        .collect();
    assert_eq!(kinds.len(), 11);
}

proptest! {
    #[test]
    fn damaged_bytes_never_panic(flips in proptest::collection::vec((0..400_usize, any::<u8>()), 1..4), cut in 0..400_usize) {
        for (_, sample) in samples::events() {
            let mut framed = framing::encode(ID, &sample).unwrap().to_vec();
            for (place, byte) in &flips {
                let place = 5 + place % (framed.len() - 5);
                framed[place] = *byte;
            }
            framed.truncate(framed.len().min(5 + cut));
            if let Ok(record) = framing::decode::<EventRecord>(EventRecord::schema(), &framed[5..]) {
                framing::encode(ID, &record).unwrap();
            }
        }
    }
}
