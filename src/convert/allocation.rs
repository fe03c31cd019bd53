//! Chooses one option for each of many items, with a common limit on the total size.

/// An option for an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    /// Its size.
    pub bytes: u64,
    /// The damage that it does.
    pub damage: f64,
}

/// Returns the index of the chosen option for each item, so that the sizes add up to at most
/// `limit`; `None` if even the smallest options exceed it.
///
/// For each item, only the options on the lower convex hull of size and damage are considered.
/// These are the options that are best at some price per byte (the Lagrange multiplier). All items
/// start with their smallest option. Then steps to the next option on the hull are taken, in the
/// order of the damage that each byte saves, as long as they fit. If steps were divisible, this
/// would be the optimum. So the result is worse than the optimum by less than what the first step
/// that did not fit would have saved.
pub(super) fn allocate(items: &[Vec<Choice>], limit: u64) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<usize>> = items.iter().map(|choices| hull(choices)).collect();
    let choice = |item: usize, at: usize| items[item][hulls[item][at]];
    let mut steps = Vec::new();
    for (item, hull) in hulls.iter().enumerate() {
        for at in 1..hull.len() {
            let (a, b) = (choice(item, at - 1), choice(item, at));
            let gain = (a.damage - b.damage) / (b.bytes - a.bytes) as f64;
            steps.push((gain, item, at));
        }
    }
    // The sort is stable: equal gains are taken in the order of the items.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut taken = vec![0; items.len()];
    let smallest: u64 = (0..items.len()).map(|item| choice(item, 0).bytes).sum();
    let mut room = limit.checked_sub(smallest)?;
    for (_, item, at) in steps {
        let more = choice(item, at).bytes - choice(item, at - 1).bytes;
        // After a step was skipped, later steps of the same item cannot be taken.
        if taken[item] + 1 == at && more <= room {
            taken[item] = at;
            room -= more;
        }
    }
    Some(taken.iter().zip(&hulls).map(|(at, hull)| hull[*at]).collect())
}

/// The options on the lower convex hull, from the smallest on. Each does less damage than the one
/// before, and each further byte saves less than the byte before.
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
    fn dominated_options_are_never_chosen() {
        // The third option is larger and worse than the second. The fourth lies above the line from
        // the second to the last.
        let all = choices(&[(10, 9.0), (20, 3.0), (25, 4.0), (30, 2.9), (40, 1.0)]);
        assert_eq!(hull(&all), [0, 1, 4]);
        assert_eq!(hull(&choices(&[(10, 1.0), (10, 0.5), (20, 0.5)])), [1]);
    }

    #[test]
    fn bytes_are_spent_where_they_save_most_damage() {
        let items = [choices(&[(10, 8.0), (20, 4.0)]), choices(&[(10, 80.0), (20, 40.0)])];
        assert_eq!(allocate(&items, 19), None);
        assert_eq!(allocate(&items, 20), Some(vec![0, 0]));
        assert_eq!(allocate(&items, 30), Some(vec![0, 1]));
        assert_eq!(allocate(&items, 40), Some(vec![1, 1]));
        assert_eq!(allocate(&[], 0), Some(vec![]));
    }

    /// The least damage of all combinations that fit, by trying all of them.
    fn best(items: &[Vec<Choice>], limit: u64) -> Option<f64> {
        let Some((first, rest)) = items.split_first() else { return Some(0.0) };
        let options = first.iter().filter_map(|choice| {
            Some(choice.damage + best(rest, limit.checked_sub(choice.bytes)?)?)
        });
        options.min_by(f64::total_cmp)
    }

    proptest! {
        #[test]
        fn the_result_fits_and_is_within_one_step_of_the_best(
            items in prop::collection::vec(
                prop::collection::vec((1u64..40, 0u32..100), 1..5), 1..5),
            limit in 1u64..150,
        ) {
            let items: Vec<_> = items.iter().map(|item| {
                let choice = |(bytes, damage): &(u64, u32)| (*bytes, f64::from(*damage));
                choices(&item.iter().map(choice).collect::<Vec<_>>())
            }).collect();
            let Some(chosen) = allocate(&items, limit) else {
                prop_assert_eq!(best(&items, limit), None);
                return Ok(());
            };
            let chosen = || chosen.iter().zip(&items).map(|(at, item)| item[*at]);
            prop_assert!(chosen().map(|c| c.bytes).sum::<u64>() <= limit);
            let damage: f64 = chosen().map(|c| c.damage).sum();
            let best = best(&items, limit).expect("what was chosen fits");
            let step = |item: &Vec<Choice>| {
                let hull = hull(item);
                let steps = hull.windows(2).map(|s| item[s[0]].damage - item[s[1]].damage);
                steps.fold(0.0, f64::max)
            };
            let largest_step = items.iter().map(step).fold(0.0, f64::max);
            prop_assert!(damage >= best && damage <= best + largest_step);
        }
    }
}
