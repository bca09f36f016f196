//! Our `.proto` files agree with the official xDS API: a wrong field number would otherwise go unnoticed until two
//! peers misunderstand each other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use flate2::read::GzDecoder;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Packages that are our own, that come with every protobuf implementation, or that the published
/// descriptor set leaves out (pinned below).
const EXEMPT: [&str; 5] = [
    "sidestep.",
    "google.",
    "xds.data.orca.",
    "xds.service.orca.",
    "envoy.extensions.load_balancing_policies.peak_ewma.",
];

/// Official messages that the published descriptor set leaves out; pinned below.
const PINNED: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// Messages and enums of a descriptor set by full name.
#[derive(Default)]
struct Index {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    /// `proto3` or `proto2` by full name of a message.
    syntax: BTreeMap<String, String>,
}

impl Index {
    fn new(set: FileDescriptorSet) -> Self {
        let mut index = Self::default();
        for file in set.file {
            for message in &file.message_type {
                index.add(file.package(), file.syntax(), message);
            }
            for r#enum in &file.enum_type {
                index.enums.insert(
                    format!("{}.{}", file.package(), r#enum.name()),
                    r#enum.clone(),
                );
            }
        }
        index
    }

    fn add(&mut self, scope: &str, syntax: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add(&name, syntax, nested);
        }
        for r#enum in &message.enum_type {
            self.enums
                .insert(format!("{name}.{}", r#enum.name()), r#enum.clone());
        }
        self.syntax.insert(name.clone(), syntax.to_owned());
        self.messages.insert(name, message.clone());
    }
}

fn ours() -> Index {
    Index::new(
        FileDescriptorSet::decode(sidestep_proto::wire::DESCRIPTORS).expect("our descriptors"),
    )
}

fn official() -> Index {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../xds-server/data/envoy-descriptors.bin.gz"
    );
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).expect(path))
        .read_to_end(&mut bytes)
        .expect("gzip");
    Index::new(FileDescriptorSet::decode(bytes.as_slice()).expect("official descriptors"))
}

/// `EnvoyProto` to `envoyProto`: the JSON name of a field whose descriptor does not state one.
fn json_name(field: &FieldDescriptorProto) -> String {
    if field.json_name.is_some() {
        return field.json_name().to_owned();
    }
    let mut name = String::new();
    let mut upper = false;
    for c in field.name().chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                name.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => name.push(c),
        }
    }
    name
}

/// Everything about a field that two peers, or two JSON readers, have to agree on.
#[derive(Debug, PartialEq)]
struct Shape {
    number: i32,
    label: i32,
    r#type: i32,
    type_name: String,
    json_name: String,
    oneof: Option<String>,
    explicit_presence: bool,
    packed: Option<bool>,
}

fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> Shape {
    Shape {
        number: field.number(),
        label: field.label.unwrap_or_default(),
        r#type: field.r#type.unwrap_or_default(),
        type_name: field.type_name().to_owned(),
        json_name: json_name(field),
        oneof: field
            .oneof_index
            .map(|index| message.oneof_decl[index as usize].name().to_owned()),
        explicit_presence: field.proto3_optional(),
        packed: field.options.as_ref().and_then(|options| options.packed),
    }
}

#[test]
fn every_field_of_ours_is_an_official_one() {
    let (ours, official) = (ours(), official());
    let mut problems = Vec::new();
    let mut fields = 0;
    for (name, message) in &ours.messages {
        if EXEMPT.iter().any(|package| name.starts_with(package)) || PINNED.contains(&name.as_str())
        {
            continue;
        }
        let Some(counterpart) = official.messages.get(name) else {
            problems.push(format!("{name}: no such message"));
            continue;
        };
        if ours.syntax[name] != official.syntax[name] {
            problems.push(format!("{name}: another syntax"));
        }
        for field in &message.field {
            fields += 1;
            match counterpart
                .field
                .iter()
                .find(|other| other.name() == field.name())
            {
                None => problems.push(format!("{name}.{}: no such field", field.name())),
                Some(other) => {
                    let (found, wanted) = (shape(message, field), shape(counterpart, other));
                    if found != wanted {
                        problems.push(format!(
                            "{name}.{}: {found:?}, should be {wanted:?}",
                            field.name()
                        ));
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(fields > 700, "only {fields} fields were compared");
}

#[test]
fn every_enum_of_ours_is_the_whole_official_one() {
    let (ours, official) = (ours(), official());
    for (name, r#enum) in &ours.enums {
        if EXEMPT.iter().any(|package| name.starts_with(package)) {
            continue;
        }
        let values = |r#enum: &EnumDescriptorProto| -> BTreeMap<String, i32> {
            r#enum
                .value
                .iter()
                .map(|value| (value.name().to_owned(), value.number()))
                .collect()
        };
        let counterpart = official
            .enums
            .get(name)
            .unwrap_or_else(|| panic!("{name}: no such enum"));
        assert_eq!(values(r#enum), values(counterpart), "{name}");
    }
}

#[test]
fn messages_outside_the_published_set_keep_their_shape() {
    let ours = ours();
    for name in PINNED {
        let fields: Vec<_> = ours.messages[name]
            .field
            .iter()
            .map(|field| (field.name(), field.number(), field.type_name()))
            .collect();
        assert_eq!(
            fields,
            [("type_url", 1, ""), ("value", 2, ".google.protobuf.Struct")],
            "{name}"
        );
    }
}

#[test]
fn what_is_not_published_keeps_its_shape() {
    use sidestep_proto::wire::orca::{OrcaLoadReport, OrcaLoadReportRequest};
    let ours = ours();
    let fields = |name: &str| -> Vec<_> {
        let fields = ours.messages[name].field.iter();
        fields
            .map(|field| format!("{} {} {:?}", field.number(), field.name(), field.r#type()))
            .collect()
    };
    assert_eq!(
        fields("xds.data.orca.v3.OrcaLoadReport"),
        [
            "1 cpu_utilization Double",
            "2 mem_utilization Double",
            "3 rps Uint64",
            "4 request_cost Message",
            "5 utilization Message",
            "6 rps_fractional Double",
            "7 eps Double",
            "8 named_metrics Message",
            "9 application_utilization Double",
        ]
    );
    assert_eq!(
        fields("xds.service.orca.v3.OrcaLoadReportRequest"),
        ["1 report_interval Message", "2 request_cost_names String"]
    );
    assert_eq!(
        fields("envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma"),
        [
            "1 decay_time Message",
            "2 aggregation_interval Message",
            "3 max_samples_per_host Message",
            "4 default_rtt Message",
            "5 penalty_value Message",
        ]
    );
    // As a backend of another language writes it: a map entry is key 1 and value 2.
    let entry = [0x42, 12, 0x0a, 1, b'q', 0x11, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f];
    let report = OrcaLoadReport::decode(&entry[..]).expect("a report");
    assert_eq!(report.named_metrics["q"], 0.5);
    assert_eq!(report.encode_to_vec(), entry);
    assert_eq!(OrcaLoadReportRequest::default().encoded_len(), 0);
}
