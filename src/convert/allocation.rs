//! The choice of one option for each of many things under a common limit on their size.

/// What one thing may become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    /// Its size.
    pub bytes: u64,
    /// What is lost.
    pub damage: f64,
}

/// For each thing the index of the choice that it gets, so that the sizes add up to `limit` at
/// most; `None` if even the smallest do not.
///
/// Of each thing, only choices count that lie on the lower convex hull of size and damage: those
/// that some price of a byte, the Lagrange multiplier, makes best. Beginning with the smallest, the
/// steps from one such choice to the next are taken in the order of what a byte wins, as long as
/// they fit. Were steps divisible this would be the optimum; so it is missed by less than what the
/// first step that does not fit would have won.
pub(super) fn allocate(things: &[Vec<Choice>], limit: u64) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<usize>> = things.iter().map(|choices| hull(choices)).collect();
    let choice = |thing: usize, at: usize| things[thing][hulls[thing][at]];
    let mut steps = Vec::new();
    for (thing, hull) in hulls.iter().enumerate() {
        for at in 1..hull.len() {
            let (a, b) = (choice(thing, at - 1), choice(thing, at));
            let gain = (a.damage - b.damage) / (b.bytes - a.bytes) as f64;
            steps.push((gain, thing, at));
        }
    }
    // Stable, so that equal gains are taken in the order of the things.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut taken = vec![0; things.len()];
    let smallest: u64 = (0..things.len()).map(|thing| choice(thing, 0).bytes).sum();
    let mut room = limit.checked_sub(smallest)?;
    for (_, thing, at) in steps {
        let more = choice(thing, at).bytes - choice(thing, at - 1).bytes;
        // What was skipped bars the larger steps of the same thing.
        if taken[thing] + 1 == at && more <= room {
            taken[thing] = at;
            room -= more;
        }
    }
    Some(taken.iter().zip(&hulls).map(|(at, hull)| hull[*at]).collect())
}

/// The choices on the lower convex hull, the smallest first: each loses less than the one before,
/// and each byte more wins less than the byte before.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (choices[*a], choices[*b]);
        a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage))
    });
    let slope = |a: usize, b: usize| {
        let (a, b) = (choices[a], choices[b]);
        (a.damage - b.damage) / (b.bytes - a.bytes) as f64
    };
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        if hull.last().is_some_and(|last| choices[*last].damage <= choices[i].damage) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            if slope(a, b) > slope(b, i) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choices(pairs: &[(u64, f64)]) -> Vec<Choice> {
        pairs.iter().map(|(bytes, damage)| Choice { bytes: *bytes, damage: *damage }).collect()
    }

    #[test]
    fn what_is_dominated_is_never_chosen() {
        // The third is larger and worse than the second; the fourth lies above the line from the
        // second to the last.
        let all = choices(&[(10, 9.0), (20, 3.0), (25, 4.0), (30, 2.9), (40, 1.0)]);
        assert_eq!(hull(&all), [0, 1, 4]);
        assert_eq!(hull(&choices(&[(10, 1.0), (10, 0.5), (20, 0.5)])), [1]);
    }

    #[test]
    fn bytes_go_where_they_win_most() {
        let things = [choices(&[(10, 8.0), (20, 4.0)]), choices(&[(10, 80.0), (20, 40.0)])];
        assert_eq!(allocate(&things, 19), None);
        assert_eq!(allocate(&things, 20), Some(vec![0, 0]));
        assert_eq!(allocate(&things, 30), Some(vec![0, 1]));
        assert_eq!(allocate(&things, 40), Some(vec![1, 1]));
        assert_eq!(allocate(&[], 0), Some(vec![]));
    }

    /// The least damage of all combinations that fit.
    fn best(things: &[Vec<Choice>], limit: u64) -> Option<f64> {
        let Some((first, rest)) = things.split_first() else { return Some(0.0) };
        let options = first.iter().filter_map(|choice| {
            Some(choice.damage + best(rest, limit.checked_sub(choice.bytes)?)?)
        });
        options.min_by(f64::total_cmp)
    }

    proptest! {
        #[test]
        fn never_over_the_limit_and_within_one_step_of_the_best(
            things in prop::collection::vec(
                prop::collection::vec((1u64..40, 0u32..100), 1..5), 1..5),
            limit in 1u64..150,
        ) {
            let things: Vec<_> = things.iter().map(|thing| {
                let choice = |(bytes, damage): &(u64, u32)| (*bytes, f64::from(*damage));
                choices(&thing.iter().map(choice).collect::<Vec<_>>())
            }).collect();
            let Some(chosen) = allocate(&things, limit) else {
                prop_assert_eq!(best(&things, limit), None);
                return Ok(());
            };
            let chosen = || chosen.iter().zip(&things).map(|(at, thing)| thing[*at]);
            prop_assert!(chosen().map(|c| c.bytes).sum::<u64>() <= limit);
            let damage: f64 = chosen().map(|c| c.damage).sum();
            let best = best(&things, limit).expect("what was chosen fits");
            let step = |thing: &Vec<Choice>| {
                let hull = hull(thing);
                let steps = hull.windows(2).map(|s| thing[s[0]].damage - thing[s[1]].damage);
                steps.fold(0.0, f64::max)
            };
            let largest_step = things.iter().map(step).fold(0.0, f64::max);
            prop_assert!(damage >= best && damage <= best + largest_step);
        }
    }
}
