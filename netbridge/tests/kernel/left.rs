//! Links that nobody deletes: they go with their network namespaces, many at once, and the kernel does not take its 20 to 40
//! ms for each. For tests that are not about that.

use std::ops::Deref;

use cofferdam_netbridge::{Bridge, IfName, Port};

pub(crate) struct Left<T: Persist>(Option<T>);

impl<T: Persist> Left<T> {
    pub(crate) fn new(link: T) -> Self {
        Left(Some(link))
    }

    /// For a test that is about it.
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().unwrap()
    }
}

impl<T: Persist> Deref for Left<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().unwrap()
    }
}

impl<T: Persist> Drop for Left<T> {
    fn drop(&mut self) {
        self.0.take().map(T::left);
    }
}

pub(crate) trait Persist {
    fn left(self) -> IfName;
}

impl Persist for Bridge {
    fn left(self) -> IfName {
        self.persist()
    }
}

impl Persist for Port {
    fn left(self) -> IfName {
        self.persist()
    }
}
