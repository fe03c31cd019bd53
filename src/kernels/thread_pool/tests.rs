//! Tests of the pool.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{mpsc, Barrier};

use super::worker::AWAKE;
use super::*;

fn pool(threads: usize) -> ThreadPool {
    ThreadPool::new(NonZeroUsize::new(threads)).unwrap()
}

#[test]
fn every_item_is_worked_on_once() {
    for threads in [1, 2, 3, 8] {
        let pool = pool(threads);
        assert_eq!(pool.size(), threads);
        for n in [0, 1, 2, 7, 1000] {
            let mut x = vec![0; n];
            pool.for_each(x.iter_mut().enumerate(), |(i, x)| *x += i + 1);
            assert!(x.iter().enumerate().all(|(i, x)| *x == i + 1));
        }
    }
}

/// Items that wait for what runs beside them, and the other way round.
#[test]
fn items_and_what_is_beside_them_run_at_the_same_time() {
    let pool = pool(2);
    let (to_item, from_beside) = mpsc::channel();
    let (to_beside, from_item) = mpsc::channel();
    let wait = Duration::from_secs(60);
    let item = Mutex::new((to_beside, from_beside));
    let beside = || {
        let heard = from_item.recv_timeout(wait);
        to_item.send(()).expect("the item waits");
        heard
    };
    let heard = pool.for_each_beside(
        beside,
        [item],
        || (),
        |(), item| {
            let (to_beside, from_beside) = item.into_inner().expect("not poisoned");
            to_beside.send(7).expect("it waits");
            from_beside.recv_timeout(wait).expect("it is called");
        },
    );
    assert_eq!(heard, Ok(7));
}

#[test]
fn what_is_beside_no_items_or_on_one_thread_is_called_too() {
    for (threads, n) in [(1, 0), (1, 5), (3, 0), (3, 1), (3, 5)] {
        let count = AtomicUsize::new(0);
        let add = |(): &mut (), i| _ = count.fetch_add(i, Ordering::Relaxed);
        assert_eq!(pool(threads).for_each_beside(|| 9, 1..=n, || (), add), 9);
        assert_eq!(count.into_inner(), n * (n + 1) / 2);
    }
}

#[test]
fn sleeping_threads_wake_up_again() {
    let pool = pool(3);
    for _ in 0..3 {
        thread::sleep(3 * AWAKE);
        let count = AtomicUsize::new(0);
        pool.for_each(0..100, |i| _ = count.fetch_add(i, Ordering::Relaxed));
        assert_eq!(count.into_inner(), 4950);
    }
}

/// The moment at which a worker falls asleep is the one at which it could miss that it is to end.
#[test]
fn threads_that_are_falling_asleep_end() {
    for i in 0..2000 {
        let (pool, start) = (pool(2), Instant::now());
        while start.elapsed() < AWAKE + Duration::from_nanos(50 * i) {
            std::hint::spin_loop();
        }
        drop(pool);
    }
}

#[test]
fn calls_from_several_threads_take_turns() {
    let (pool, sum) = (pool(2), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    pool.for_each(0..10, |i| _ = sum.fetch_add(i, Ordering::Relaxed));
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 4 * 100 * 45);
}

#[test]
fn a_panic_is_passed_on_and_the_pool_stays_usable() {
    let pool = pool(3);
    for bad in 0..3 {
        // Every thread has one of the three items: none is done before all have begun.
        let begun = Barrier::new(3);
        let work = |_| {
            begun.wait();
            let number = thread::current()
                .name()
                .and_then(|name| name.strip_prefix("kernels-")?.parse().ok());
            assert!(number.unwrap_or(0) != bad, "as it should");
        };
        let all = || pool.for_each_beside(|| (), 0..3, || (), |(), i| work(i));
        assert!(panic::catch_unwind(AssertUnwindSafe(all)).is_err());
        let count = AtomicUsize::new(0);
        pool.for_each(0..100, |i| _ = count.fetch_add(i, Ordering::Relaxed));
        assert_eq!(count.into_inner(), 4950);
    }
}

#[test]
fn a_worker_that_does_not_come_is_not_waited_for() {
    let pool = ThreadPool { workers: vec![Worker::absent()], ..pool(2) };
    for n in [2, 3, 100] {
        let mut x = vec![0; n];
        pool.for_each(x.iter_mut().enumerate(), |(i, x)| *x += i + 1);
        assert!(x.iter().enumerate().all(|(i, x)| *x == i + 1));
    }
}

#[test]
fn a_worker_that_takes_long_is_waited_for() {
    for _ in 0..5 {
        let (pool, begun, slept) = (pool(2), Barrier::new(2), AtomicUsize::new(0));
        pool.for_each(0..2, |_| {
            begun.wait();
            if thread::current().name() == Some("kernels-1") {
                thread::sleep(Duration::from_millis(5));
                slept.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(slept.into_inner(), 1);
    }
}

/// Items and results are on the stack of each turn, so that a thread which came too late would spoil
/// the next turn.
#[test]
fn many_more_threads_than_cores() {
    let pool = pool(4 * processors().get());
    for turn in 0..5000 {
        let (n, done) = (turn % 50, AtomicUsize::new(0));
        let mut x = vec![turn; n];
        pool.for_each(x.iter_mut().enumerate(), |(i, x)| {
            *x += i;
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert!(x.iter().enumerate().all(|(i, x)| *x == turn + i));
        assert_eq!(done.into_inner(), n);
    }
}
