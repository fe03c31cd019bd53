//! The macros that tokens and their methods are written with.

/// Methods that call intrinsics. Each is `#[inline(always)]`, so that it becomes part of a function
/// that the instruction set is enabled for. The bodies are all `unsafe` for the reason given here.
macro_rules! ops {
    ($(fn $name:ident $(<$(const $n:ident: i32),*>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
        $(
            #[inline(always)]
            fn $name $(<$(const $n: i32),*>)? (self, $($arg: $ty),*) $(-> $ret)? {
                // SAFETY: `self` exists only where `detect` found the instructions, and loads and
                // stores are of whole arrays, which a reference was given to.
                #[allow(unsafe_code, clippy::macro_metavars_in_unsafe)]
                unsafe { $body }
            }
        )*
    };
}
pub(super) use ops;

/// A token and the function that enables its instruction set. Nothing else relies on what the token
/// proves.
macro_rules! token {
    ($(#[$doc:meta])* $token:ident, $name:literal, $features:literal, $found:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $token(());

        impl $token {
            /// Its name in `--isa`.
            pub fn name(self) -> &'static str {
                $name
            }

            /// A token, if the machine has the instructions.
            pub fn detect() -> Option<Self> {
                $found.then_some(Self(()))
            }

            /// Runs `op`, compiled for this instruction set.
            pub fn enter<O: IntOp>(self, op: O) -> O::Out {
                #[target_feature(enable = $features)]
                fn enter<O: IntOp>(s: $token, op: O) -> O::Out {
                    op.run(s)
                }
                // SAFETY: `self` exists only where `detect` found the instructions.
                #[allow(unsafe_code)]
                unsafe { enter(self, op) }
            }
        }
    };
}
pub(super) use token;
