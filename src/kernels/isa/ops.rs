//! How the methods of a token are written.

/// Methods that call intrinsics: each is `#[inline(always)]`, so that it becomes part of the
/// function that the instruction set is enabled for, and its body is `unsafe` for the one reason
/// that is given here.
macro_rules! ops {
    ($(fn $name:ident $(<$(const $n:ident: i32),*>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {
        $(
            #[inline(always)]
            fn $name $(<$(const $n: i32),*>)? (self, $($arg: $ty),*) $(-> $ret)? {
                // SAFETY: `self` exists only where `detect` found the instructions, and what is
                // loaded or stored is a whole array that a reference was given to.
                #[allow(unsafe_code, clippy::macro_metavars_in_unsafe)]
                unsafe { $body }
            }
        )*
    };
}
pub(super) use ops;

/// The functions that enable an instruction set: the one place where a token's promise is used.
macro_rules! token {
    ($(#[$doc:meta])* $token:ident, $features:literal, $found:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $token(());

        impl $token {
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
