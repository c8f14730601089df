//! Deliberate mistakes, to prove that the tests would notice them, and the build before this one.
//!
//! Each mistake takes one rule of the delivery protocol away. They exist with the feature `mutants` only,
//! which nothing but the simulation turns on; without it `is` is constant and costs nothing.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Objects are put before their intent is in the row.
    PutBeforeIntent,
    /// A progress write without an answer is taken for written.
    AmbiguousIsWritten,
    /// A new owner drops what the previous one announced.
    IgnorePending,
    /// A new owner encodes an announced batch with its own settings.
    OwnSettings,
    /// Progress is written without a condition.
    Unconditional,
    /// Progress is written on the condition of ownership alone.
    OwnerOnly,
    /// A failed put counts as done.
    PutErrorIsSuccess,
    /// A batch counts as durable after its first object.
    FirstObjectIsEnough,
    /// The commit does not wait for the objects.
    CommitBeforePut,
    /// Recovery reads one page of the announced range.
    OnePage,
    /// Objects replace what stands under their key.
    Overwrite,
    /// Children are read before their parents are finished.
    ChildrenFirst,
    /// A batch commits when a later one is durable.
    OutOfOrder,
    /// A new owner names objects by its own clock instead of the recorded stamp.
    OwnClock,
    /// What is left of an announced batch is put under the name of the whole.
    PartIsWhole,
    /// A finished lease is deleted while its shard is still listed.
    DeleteEarly,
    /// Overflow is put before the partitions that had room.
    OverflowFirst,
    /// Files with the same key are put at the same time.
    FilesAtOnce,
    /// User records whose hash key another shard takes are left out.
    ForeignLeftOut,
    /// A gap is passed although the policy is to stop, and nobody accepted it.
    GapsPassed,
    /// A shard has ended when one answer says so.
    EndIsBelieved,
    /// What empty pages do not show of an announced batch is gone.
    EmptyIsGone,
    /// A row at a LATEST of no time begins at whatever is latest when it is taken.
    NoPin,
    /// A subscription that is refused is asked for again at once.
    NoRest,
    /// An event of which a field got lost is believed.
    BareIsEmpty,
    /// A shard goes back while batches are announced.
    BackAtOnce,
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;

    thread_local! {
        static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
        static OLDER: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    /// Every one of them.
    pub const ALL: [Mutant; 26] = [
        Mutant::PutBeforeIntent,
        Mutant::AmbiguousIsWritten,
        Mutant::IgnorePending,
        Mutant::OwnSettings,
        Mutant::Unconditional,
        Mutant::OwnerOnly,
        Mutant::PutErrorIsSuccess,
        Mutant::FirstObjectIsEnough,
        Mutant::CommitBeforePut,
        Mutant::OnePage,
        Mutant::Overwrite,
        Mutant::ChildrenFirst,
        Mutant::OutOfOrder,
        Mutant::OwnClock,
        Mutant::PartIsWhole,
        Mutant::DeleteEarly,
        Mutant::OverflowFirst,
        Mutant::FilesAtOnce,
        Mutant::ForeignLeftOut,
        Mutant::GapsPassed,
        Mutant::EndIsBelieved,
        Mutant::EmptyIsGone,
        Mutant::NoPin,
        Mutant::NoRest,
        Mutant::BareIsEmpty,
        Mutant::BackAtOnce,
    ];

    /// Breaks a rule on this thread, or none.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.set(mutant);
    }

    /// Is this rule broken?
    pub fn is(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }

    /// Until told otherwise this thread runs the build before this one.
    pub fn older(older: bool) {
        OLDER.set(older);
    }

    /// The latest version that this build knows.
    pub fn known(version: u32) -> u32 {
        version - u32::from(OLDER.get())
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{ALL, choose, is, known, older};

/// The latest version that this build knows: the given one.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn known(version: u32) -> u32 {
    version
}

/// Is this rule broken? Never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
