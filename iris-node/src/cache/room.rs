//! What has to go so that something new finds room: a decision over facts, without a disk.

use std::time::SystemTime;

/// Something that takes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) size: u64,
    /// How many bytes of it have yet to be written, by a download that goes on.
    pub(super) missing: u64,
    /// When it was used last.
    pub(super) used: SystemTime,
    /// Whether it must stay: it is in use, or was put there by the owner.
    pub(super) stays: bool,
}

/// How many bytes of the disk are left free: a system whose disk is full does little else.
pub(super) const SPARE: u64 = 1 << 30;

/// What is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// How many bytes it has in the end.
    pub(super) size: u64,
    /// How many of them have yet to be written.
    pub(super) missing: u64,
}

/// Why there is no room, whatever went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// What must stay and what is to come are so many bytes more than may be kept.
    Limit(u64),
    /// The disk would have so many bytes too few beside those that are left free.
    Disk(u64),
}

/// Returns which of `taken` have to go for `wanted`, the longest unused first, when at most `limit`
/// bytes may be kept and the disk has `free` ones, if that is known.
///
/// As few go as that order allows. What stays and what is to come are within the limit together, and
/// so are what is missing of both and [`SPARE`] within what the disk has.
pub(super) fn make_room(
    taken: &[Taken],
    wanted: Wanted,
    limit: u64,
    free: Option<u64>,
) -> Result<Vec<usize>, Lack> {
    let mut goers: Vec<_> = (0..taken.len()).filter(|at| !taken[*at].stays).collect();
    goers.sort_by_key(|at| (taken[*at].used, *at));
    let mut kept = taken.iter().fold(wanted.size, |sum, one| sum.saturating_add(one.size));
    let needed = taken.iter().fold(wanted.missing, |sum, one| sum.saturating_add(one.missing));
    let needed = needed.saturating_add(SPARE);
    let mut free = free.unwrap_or(u64::MAX);
    let mut gone = Vec::new();
    let mut goers = goers.into_iter();
    while kept > limit || needed > free {
        let Some(at) = goers.next() else {
            return Err(if kept > limit {
                Lack::Limit(kept - limit)
            } else {
                Lack::Disk(needed - free)
            });
        };
        kept = kept.saturating_sub(taken[at].size);
        free = free.saturating_add(taken[at].size);
        gone.push(at);
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn taken() -> impl Strategy<Value = Vec<Taken>> {
        let one = (0_u64..50, 0_u64..10, any::<bool>(), 0_u64..10);
        let one = one.prop_map(|(size, used, stays, missing)| {
            let missing = if stays { missing.min(size) } else { 0 };
            Taken { size, missing, used: at(used), stays }
        });
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn the_limit_is_kept_by_the_longest_unused_alone(
            taken in taken(),
            size in 0_u64..80,
            written in 0_u64..80,
            limit in 0_u64..200,
            free in prop::option::of(SPARE..SPARE + 80),
        ) {
            let wanted = Wanted { size, missing: size.saturating_sub(written) };
            let sum = |which: &dyn Fn(usize) -> bool| -> u64 {
                (0..taken.len()).filter(|at| which(*at)).map(|at| taken[at].size).sum()
            };
            let fits = |gone: &[usize]| {
                let kept = sum(&|at| !gone.contains(&at)) + size;
                let room = free.map_or(u64::MAX, |free| free + sum(&|at| gone.contains(&at)));
                let missing = taken.iter().fold(wanted.missing, |sum, one| sum + one.missing);
                kept <= limit && missing + SPARE <= room
            };
            if let Ok(gone) = make_room(&taken, wanted, limit, free) {
                prop_assert!(fits(&gone), "there is room afterwards");
                prop_assert!(gone.iter().all(|at| !taken[*at].stays));
                let kept = (0..taken.len()).filter(|at| !gone.contains(at) && !taken[*at].stays);
                let oldest = kept.map(|at| taken[at].used).min();
                let latest = gone.iter().map(|at| taken[*at].used).max();
                prop_assert!(oldest.is_none() || latest.is_none() || latest <= oldest);
                if let Some((_, fewer)) = gone.split_last() {
                    prop_assert!(!fits(fewer), "no more go than have to");
                }
            } else {
                let all: Vec<_> = (0..taken.len()).filter(|at| !taken[*at].stays).collect();
                prop_assert!(!fits(&all), "not even all together would do");
            }
        }
    }

    #[test]
    fn what_is_lacking_is_told_to_the_byte() {
        let stays = Taken { size: 30, missing: 5, used: at(0), stays: true };
        let wanted = Wanted { size: 80, missing: 50 };
        assert_eq!(make_room(&[stays], wanted, 100, None), Err(Lack::Limit(10)));
        assert_eq!(make_room(&[stays], wanted, 110, Some(SPARE + 45)), Err(Lack::Disk(10)));
        assert_eq!(make_room(&[stays], wanted, 110, Some(SPARE + 55)), Ok(Vec::new()));
    }
}
