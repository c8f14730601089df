//! Least-privilege IAM policies, made from the one table of the AWS operations that `src/aws` calls.
//!
//! `tests/it/iam.rs` compares the table with the source and with what a running worker sends, so an
//! action that is missing and an action that nothing uses both fail the build.

use serde_json::{Value, json};

use crate::config::{Config, ReadBy};
use crate::delivery::object_key::Template;
use crate::upload::file_key::KEY_PREFIX;

/// Replays put their objects here unless told otherwise.
const REPLAYS: &str = "replays/";

/// Who holds the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `catchment run`.
    Worker,
    /// The upload function.
    UploadApi,
    /// `catchment replay`, its workers included.
    Replay,
    /// `catchment leases`, `catchment verify` and `catchment doctor --role operator`.
    Operator,
}

/// What an action is granted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The stream.
    Stream,
    /// The fan-out consumer, if shards are read as one.
    Consumer,
    /// The lease table; for replays those of their own.
    Table,
    /// Nothing narrower exists: DynamoDB's authorization reference names no resource for it.
    Account,
    /// The bucket itself.
    Bucket,
    /// Objects below the configured prefixes; for the upload function those of uploads, for replays
    /// those of replays.
    Objects,
}

/// One AWS operation of ours.
#[derive(Debug)]
pub struct Call {
    /// `Service.Operation`, as in the SDK.
    pub operation: &'static str,
    /// The IAM action that allows it.
    pub action: &'static str,
    /// On what.
    pub on: On,
    /// By whom.
    pub roles: &'static [Role],
}

const fn call(
    operation: &'static str,
    action: &'static str,
    on: On,
    roles: &'static [Role],
) -> Call {
    Call { operation, action, on, roles }
}

const LIVE: &[Role] = &[Role::Worker];
const LOOK: &[Role] = &[Role::Worker, Role::Operator];
const WORKERS: &[Role] = &[Role::Worker, Role::Replay];
const DOOR: &[Role] = &[Role::UploadApi];
const REPLAY: &[Role] = &[Role::Replay];
const ALL: &[Role] = &[Role::Worker, Role::Replay, Role::Operator];

/// Every operation `src/aws` calls against real services, in the order of the policy. Multipart
/// operations share `s3:PutObject`, HEAD requests the permission to read: S3's API reference,
/// "Required permissions for Amazon S3 API operations".
pub const CALLS: &[Call] = &[
    call("Kinesis.DescribeStreamSummary", "kinesis:DescribeStreamSummary", On::Stream, ALL),
    call("Kinesis.ListShards", "kinesis:ListShards", On::Stream, ALL),
    call("Kinesis.GetShardIterator", "kinesis:GetShardIterator", On::Stream, ALL),
    call("Kinesis.GetRecords", "kinesis:GetRecords", On::Stream, ALL),
    call("Kinesis.DescribeStreamConsumer", "kinesis:DescribeStreamConsumer", On::Consumer, LOOK),
    call("Kinesis.RegisterStreamConsumer", REGISTER, On::Stream, LIVE),
    call("Kinesis.SubscribeToShard", "kinesis:SubscribeToShard", On::Consumer, LIVE),
    call("Kinesis.PutRecord", "kinesis:PutRecord", On::Stream, DOOR),
    call("DynamoDB.DescribeTable", "dynamodb:DescribeTable", On::Table, ALL),
    call("DynamoDB.CreateTable", CREATE_TABLE, On::Table, WORKERS),
    call("DynamoDB.Scan", "dynamodb:Scan", On::Table, ALL),
    call("DynamoDB.GetItem", "dynamodb:GetItem", On::Table, ALL),
    call("DynamoDB.PutItem", "dynamodb:PutItem", On::Table, WORKERS),
    call("DynamoDB.UpdateItem", "dynamodb:UpdateItem", On::Table, ALL),
    call("DynamoDB.DeleteItem", "dynamodb:DeleteItem", On::Table, WORKERS),
    call("DynamoDB.ListTables", "dynamodb:ListTables", On::Account, REPLAY),
    call("DynamoDB.DeleteTable", "dynamodb:DeleteTable", On::Table, REPLAY),
    call("S3.ListObjectsV2", "s3:ListBucket", On::Bucket, &[Role::Replay, Role::Operator]),
    call("S3.GetObject", "s3:GetObject", On::Objects, &[Role::Operator]),
    call("S3.HeadBucket", "s3:ListBucket", On::Bucket, ALL),
    call("S3.PutObject", "s3:PutObject", On::Objects, WORKERS),
    call("S3.CreateMultipartUpload", "s3:PutObject", On::Objects, WORKERS),
    call("S3.UploadPart", "s3:PutObject", On::Objects, WORKERS),
    call("S3.CompleteMultipartUpload", "s3:PutObject", On::Objects, WORKERS),
    call("S3.AbortMultipartUpload", "s3:AbortMultipartUpload", On::Objects, WORKERS),
    call("S3.HeadObject", "s3:GetObject", On::Objects, EVERYBODY),
];

const EVERYBODY: &[Role] = &[Role::Worker, Role::UploadApi, Role::Replay, Role::Operator];
const REGISTER: &str = "kinesis:RegisterStreamConsumer";
const CREATE_TABLE: &str = "dynamodb:CreateTable";

/// Operations of the local mode and of `catchment send`, which never run under these roles.
pub const LOCAL_ONLY: &[&str] = &["Kinesis.CreateStream", "Kinesis.PutRecords", "S3.CreateBucket"];

/// What the configuration does not say.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Region of table, and of a stream given by name.
    pub region: Option<String>,
    /// Account of table, and of a stream given by name: 12 digits.
    pub account: Option<String>,
    /// The table is made by somebody else: no CreateTable.
    pub table_exists: bool,
    /// Further prefixes that objects may still be written to: announced batches are finished with
    /// the settings they were announced with, so an old prefix is needed until they are.
    pub also_prefixes: Vec<String>,
    /// Customer-managed key of the stream.
    pub stream_key: Option<String>,
    /// Customer-managed key of the bucket.
    pub bucket_key: Option<String>,
}

/// The policy cannot be narrowed to resources.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScope {
    /// Neither a flag nor the stream's ARN says it.
    #[error(
        "the {0} is not known: give stream.name as an ARN, or pass --{0}; a policy with a wildcard \
         instead would not be least privilege"
    )]
    Unknown(&'static str),
    /// Not in the expected form.
    #[error("--{name} {value:?}: {expected} is expected")]
    Malformed {
        /// The flag.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// The policy document of a role, for these settings.
///
/// # Errors
/// [`BadScope`]
pub fn policy(role: Role, config: &Config, scope: &Scope) -> Result<Value, BadScope> {
    // Region and account come from the arguments, or else from the ARN of the stream.
    let given: Vec<&str> = match config.stream.name.strip_prefix("arn:") {
        Some(arn) => arn.splitn(5, ':').collect(),
        None => Vec::new(),
    };
    let part = |index: usize| given.get(index).copied().filter(|text| !text.is_empty());
    let region = scope.region.as_deref().or(part(2)).ok_or(BadScope::Unknown("region"))?;
    let account = scope.account.as_deref().or(part(3)).ok_or(BadScope::Unknown("account"))?;
    check("region", region, "a region such as eu-west-1", |text| {
        text.contains('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })?;
    check("account", account, "an account of 12 digits", |text| {
        text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
    })?;
    // The resources: each kind of ARN as narrow as the configuration lets it be.
    let partition = part(0).unwrap_or_else(|| partition(region));
    let stream = if given.is_empty() {
        format!("arn:{partition}:kinesis:{region}:{account}:stream/{}", config.stream.name)
    } else {
        config.stream.name.clone()
    };
    let replays = if role == Role::Replay { "-replay-*" } else { "" };
    let table = format!(
        "arn:{partition}:dynamodb:{region}:{account}:table/{}{replays}",
        config.lease.table
    );
    let bucket = format!("arn:{partition}:s3:::{}", config.delivery.settings.bucket);
    // Kinesis ends the ARN of a consumer with the time of its registration.
    let consumer = match config.stream.consumer.as_str() {
        arn if arn.starts_with("arn:") => arn.to_owned(),
        name => format!("{stream}/consumer/{name}:*"),
    };
    for template in &scope.also_prefixes {
        check("also-prefix", template, "a key template as in delivery.prefix", |text| {
            Template::parse(text, false).is_ok()
        })?;
    }
    // Of the bucket, only the prefixes that the role writes to or reads.
    let objects: Vec<String> = match role {
        Role::UploadApi => vec![format!("{bucket}/{KEY_PREFIX}*")],
        Role::Replay => vec![format!("{bucket}/{REPLAYS}*")],
        Role::Worker => prefixes(config, scope).iter().map(|p| format!("{bucket}/{p}*")).collect(),
        Role::Operator => {
            let replays = [REPLAYS.to_owned()];
            prefixes(config, scope)
                .iter()
                .chain(&replays)
                .map(|p| format!("{bucket}/{p}*"))
                .collect()
        }
    };
    // A statement for each kind of resource that the role calls at all.
    let mut statements = Vec::new();
    for (sid, on, resources) in [
        ("Stream", On::Stream, vec![stream]),
        ("Consumer", On::Consumer, vec![consumer]),
        ("LeaseTable", On::Table, vec![table]),
        ("Account", On::Account, vec!["*".to_owned()]),
        ("Bucket", On::Bucket, vec![bucket]),
        ("Objects", On::Objects, objects),
    ] {
        let mut actions: Vec<&str> = Vec::new();
        for call in CALLS.iter().filter(|c| c.on == on && c.roles.contains(&role)) {
            let unused = call.action == CREATE_TABLE && scope.table_exists
                || call.on == On::Consumer && config.stream.reader == ReadBy::Polling
                || call.action == REGISTER && config.stream.reader != ReadBy::FanOut;
            if !unused && !actions.contains(&call.action) {
                actions.push(call.action);
            }
        }
        if !actions.is_empty() {
            statements.push(statement(sid, &actions, &resources));
        }
    }
    keys(role, scope, &mut statements)?;
    Ok(json!({ "Version": "2012-10-17", "Statement": statements }))
}

/// Reading needs Decrypt; writing a stream or an object GenerateDataKey, parts of an object both.
fn keys(role: Role, scope: &Scope, statements: &mut Vec<Value>) -> Result<(), BadScope> {
    let (stream, bucket): (&[&str], &[&str]) = match role {
        Role::Worker | Role::Replay => (&["kms:Decrypt"], &["kms:Decrypt", "kms:GenerateDataKey"]),
        Role::UploadApi => (&["kms:GenerateDataKey"], &[]),
        Role::Operator => (&["kms:Decrypt"], &["kms:Decrypt"]),
    };
    for (sid, name, key, actions) in [
        ("StreamKey", "stream-key", &scope.stream_key, stream),
        ("BucketKey", "bucket-key", &scope.bucket_key, bucket),
    ] {
        let Some(key) = key else { continue };
        check(name, key, "the ARN of a key (an alias is no resource of a policy)", |text| {
            text.starts_with("arn:") && text.contains(":kms:") && text.contains(":key/")
        })?;
        if !actions.is_empty() {
            statements.push(statement(sid, actions, std::slice::from_ref(key)));
        }
    }
    Ok(())
}

fn statement(sid: &str, actions: &[&str], resources: &[String]) -> Value {
    json!({ "Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources })
}

fn check(
    name: &'static str,
    value: &str,
    expected: &'static str,
    good: impl Fn(&str) -> bool,
) -> Result<(), BadScope> {
    if good(value) {
        return Ok(());
    }
    Err(BadScope::Malformed { name, value: value.to_owned(), expected })
}

/// The partition of a region, by its name.
fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// Where objects of a worker go: the fixed beginnings of the templates, each once.
pub fn places(config: &Config) -> Vec<String> {
    prefixes(config, &Scope::default())
}

/// Where objects go: the fixed beginnings of the templates, each once.
fn prefixes(config: &Config, scope: &Scope) -> Vec<String> {
    let stream = config.stream.name.rsplit('/').next().unwrap_or_default();
    let delivery = &config.delivery.settings;
    let templates = [&delivery.prefix].into_iter().chain(&scope.also_prefixes);
    let mut found: Vec<String> = Vec::new();
    let uploads = delivery.uploads.then(|| KEY_PREFIX.to_owned());
    let all = templates.chain([&delivery.errors]).map(|t| beginning(t, stream)).chain(uploads);
    for prefix in all {
        if !found.iter().any(|f| prefix.starts_with(f.as_str())) {
            found.retain(|f| !f.starts_with(prefix.as_str()));
            found.push(prefix);
        }
    }
    found
}

/// What every key of a template begins with, to the last `/`, so that a change of layout below a
/// folder needs no change of policy.
fn beginning(template: &str, stream: &str) -> String {
    let template = template.replace("!{stream}", stream);
    let fixed = template.split("!{").next().unwrap_or_default();
    match fixed.rfind('/') {
        Some(at) => fixed[..=at].to_owned(),
        None => fixed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::{Layers, Source};

    fn config(pairs: &[(&str, &str)]) -> Config {
        let mut layers = Layers::default();
        layers.set("stream.name", "clicks".into(), Source::Default);
        layers.set("delivery.bucket", "archive".into(), Source::Default);
        for (key, value) in pairs {
            layers.set(key, (*value).to_owned(), Source::Default);
        }
        Config::from_layers(layers).unwrap()
    }

    fn here() -> Scope {
        Scope {
            region: Some("eu-west-1".into()),
            account: Some("123456789012".into()),
            ..Scope::default()
        }
    }

    fn resources(policy: &Value, sid: &str) -> Vec<String> {
        let all = policy["Statement"].as_array().unwrap();
        let one = all.iter().find(|s| s["Sid"] == sid).unwrap();
        serde_json::from_value(one["Resource"].clone()).unwrap()
    }

    #[test]
    fn resources_are_those_of_the_configuration() {
        let policy = policy(Role::Worker, &config(&[]), &here()).unwrap();
        assert_eq!(
            resources(&policy, "Stream"),
            ["arn:aws:kinesis:eu-west-1:123456789012:stream/clicks"]
        );
        assert_eq!(
            resources(&policy, "LeaseTable"),
            ["arn:aws:dynamodb:eu-west-1:123456789012:table/catchment"]
        );
        assert_eq!(
            resources(&policy, "Objects"),
            [
                "arn:aws:s3:::archive/clicks/*",
                "arn:aws:s3:::archive/errors/*",
                "arn:aws:s3:::archive/uploads/*"
            ]
        );
    }

    #[test]
    fn the_arn_of_the_stream_says_where_everything_is() {
        let arn = "arn:aws-cn:kinesis:cn-north-1:210987654321:stream/clicks";
        let settings = config(&[("stream.name", arn), ("delivery.upload_events", "false")]);
        let made = policy(Role::Worker, &settings, &Scope::default()).unwrap();
        assert_eq!(resources(&made, "Stream"), [arn]);
        assert_eq!(
            resources(&made, "LeaseTable"),
            ["arn:aws-cn:dynamodb:cn-north-1:210987654321:table/catchment"]
        );
        assert_eq!(
            resources(&made, "Objects"),
            ["arn:aws-cn:s3:::archive/clicks/*", "arn:aws-cn:s3:::archive/errors/*"]
        );
        // A stream of another account: the table stays in ours.
        let made = policy(Role::Worker, &settings, &Scope { region: None, ..here() }).unwrap();
        assert_eq!(resources(&made, "Stream"), [arn]);
        assert!(resources(&made, "LeaseTable")[0].contains(":123456789012:"));
    }

    #[test]
    fn a_prefix_inside_another_is_said_once() {
        let settings = config(&[
            ("delivery.prefix", "all/!{timestamp:yyyy}/"),
            ("delivery.error_prefix", "all/errors/!{error}/"),
        ]);
        let scope = Scope { also_prefixes: vec!["old-!{yyyy}/".into()], ..here() };
        let made = policy(Role::Worker, &settings, &scope).unwrap();
        assert_eq!(
            resources(&made, "Objects"),
            [
                "arn:aws:s3:::archive/all/*",
                "arn:aws:s3:::archive/old-*",
                "arn:aws:s3:::archive/uploads/*"
            ]
        );
    }

    #[test]
    fn roles_hold_what_they_use() {
        let scope = Scope {
            table_exists: true,
            stream_key: Some("arn:aws:kms:eu-west-1:123456789012:key/1".into()),
            bucket_key: Some("arn:aws:kms:eu-west-1:123456789012:key/2".into()),
            ..here()
        };
        let worker = policy(Role::Worker, &config(&[]), &scope).unwrap().to_string();
        assert!(!worker.contains("CreateTable") && !worker.contains("PutRecord\""), "{worker}");
        assert!(worker.contains("kms:Decrypt") && worker.contains("key/2"));
        let door = policy(Role::UploadApi, &config(&[]), &scope).unwrap();
        assert_eq!(resources(&door, "Objects"), ["arn:aws:s3:::archive/uploads/*"]);
        assert!(!door.to_string().contains("dynamodb:"), "{door}");
        let operator = policy(Role::Operator, &config(&[]), &scope).unwrap();
        assert!(!operator.to_string().contains("s3:Put"), "{operator}");
        let replay = policy(Role::Replay, &config(&[]), &scope).unwrap();
        assert_eq!(resources(&replay, "Objects"), ["arn:aws:s3:::archive/replays/*"]);
        let table = "arn:aws:dynamodb:eu-west-1:123456789012:table/catchment-replay-*";
        assert_eq!(resources(&replay, "LeaseTable"), [table]);
    }

    #[test]
    fn what_cannot_be_narrowed_is_refused() {
        let bad = |scope: Scope| policy(Role::Worker, &config(&[]), &scope).unwrap_err();
        assert_eq!(bad(Scope::default()), BadScope::Unknown("region"));
        assert_eq!(bad(Scope { account: None, ..here() }), BadScope::Unknown("account"));
        for scope in [
            Scope { account: Some("*".into()), ..here() },
            Scope { region: Some("*".into()), ..here() },
            Scope { stream_key: Some("alias/mine".into()), ..here() },
            Scope { also_prefixes: vec!["!{nothing}/".into()], ..here() },
        ] {
            assert!(matches!(bad(scope), BadScope::Malformed { .. }));
        }
    }
}
