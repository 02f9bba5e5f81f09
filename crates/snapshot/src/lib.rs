//! Snapshot providers: LVM, btrfs, reflink, directory, command.
