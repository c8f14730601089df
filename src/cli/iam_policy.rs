//! `catchment iam-policy`: the permissions a role needs, and no others.

use clap::{Args, ValueEnum};

use crate::config::raw::Layers;
use crate::iam::{self, Role, Scope};

use super::{Failure, SettingsArgs};

#[derive(Debug, Args)]
pub(super) struct IamPolicyOptions {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Whose policy.
    #[arg(long, value_enum, default_value = "worker")]
    role: PolicyRole,
    /// Region of the lease table, and of a stream given by name.
    #[arg(long, env = "AWS_REGION")]
    region: Option<String>,
    /// Account of the lease table, and of a stream given by name.
    #[arg(long, value_name = "DIGITS")]
    account: Option<String>,
    /// The lease table exists: leave CreateTable out.
    #[arg(long)]
    table_exists: bool,
    /// A key template used until now: announced batches are still written there. May be repeated.
    #[arg(long, value_name = "TEMPLATE")]
    also_prefix: Vec<String>,
    /// ARN of the customer-managed KMS key of the stream.
    #[arg(long, value_name = "ARN")]
    stream_key: Option<String>,
    /// ARN of the customer-managed KMS key of the bucket.
    #[arg(long, value_name = "ARN")]
    bucket_key: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyRole {
    /// `catchment run`.
    Worker,
    /// The upload function.
    UploadApi,
    /// `catchment replay`.
    Replay,
    /// A person with `catchment leases` and `catchment verify`.
    Operator,
}

pub(super) fn run(options: &IamPolicyOptions) -> Result<(), Failure> {
    let role = match options.role {
        PolicyRole::Worker => Role::Worker,
        PolicyRole::UploadApi => Role::UploadApi,
        PolicyRole::Replay => Role::Replay,
        PolicyRole::Operator => Role::Operator,
    };
    let config = options.settings.load(Layers::default())?;
    let scope = Scope {
        region: options.region.clone(),
        account: options.account.clone(),
        table_exists: options.table_exists,
        also_prefixes: options.also_prefix.clone(),
        stream_key: options.stream_key.clone(),
        bucket_key: options.bucket_key.clone(),
    };
    let policy = iam::policy(role, &config, &scope).map_err(|e| Failure::new(2, e))?;
    println!("{}", serde_json::to_string_pretty(&policy).map_err(|e| Failure::new(1, e))?);
    Ok(())
}
