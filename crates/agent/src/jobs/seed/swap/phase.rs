//! How far an entrywise swap has come: what its phase file says.

/// What moves now, or has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Staged,
    OldOut,
    NewIn,
    Swapped,
    NewOut,
    OldIn,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Staged, Self::OldOut, Self::NewIn, Self::Swapped, Self::NewOut, Self::OldIn];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::OldOut => "old-out",
            Self::NewIn => "new-in",
            Self::Swapped => "swapped",
            Self::NewOut => "new-out",
            Self::OldIn => "old-in",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text.trim())
    }
}
