use iris_core::terms::Rest;

use crate::probe::Readings;

/// Looks in a row at a machine beyond its borders after which its node rests.
const TOO_MUCH: u8 = 5;
/// Looks in a row at a machine within its borders after which its node works again.
const CALM: u8 = 60;

/// Up to where a machine is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Borders {
    /// From how many percent on the processors or a card are busy, while the node does nothing:
    /// what its own work takes is not told apart. Default: they never are.
    pub load: Option<u8>,
    /// From how many degrees Celsius on a card is too hot. Default: it never is.
    pub celsius: Option<i32>,
    /// From how many watts on the cards draw too much. Default: they never do.
    pub watts: Option<u32>,
    /// How many bytes of memory are kept free. Default: none.
    pub memory_free: Option<u64>,
}

impl Borders {
    /// Returns whether nothing has to be looked at.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what is beyond its border.
    fn crossed(&self, readings: &Readings, works: bool) -> Option<Rest> {
        fn from<T: PartialOrd>(border: Option<T>, reading: Option<T>) -> bool {
            border.zip(reading).is_some_and(|(border, reading)| reading >= border)
        }
        let low = self.memory_free.zip(readings.memory_free);
        let load = readings.cpu_load.max(readings.card_load);
        if from(self.celsius, readings.celsius) {
            Some(Rest::Hot)
        } else if from(self.watts, readings.watts) {
            Some(Rest::Power)
        } else if low.is_some_and(|(least, free)| free < least) {
            Some(Rest::Memory)
        } else if from(self.load, load) && !works {
            Some(Rest::Busy)
        } else {
            None
        }
    }
}

/// Decides, look after look, whether a machine is too much used for its node to work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strain {
    rest: Option<Rest>,
    /// Looks in a row that speak against what is the case.
    against: u8,
}

impl Strain {
    /// Takes in how the machine is doing, once a second, while its node `works` or not; returns why
    /// the node is to rest.
    pub fn look(&mut self, borders: &Borders, readings: &Readings, works: bool) -> Option<Rest> {
        let crossed = borders.crossed(readings, works);
        let limit = if self.rest.is_some() { CALM } else { TOO_MUCH };
        let against = crossed.is_some() != self.rest.is_some();
        self.against = if against { self.against.saturating_add(1) } else { 0 };
        let goes_on = self.rest.is_some() && crossed.is_some();
        if goes_on || self.against >= limit {
            (self.rest, self.against) = (crossed, 0);
        }
        if borders.are_none() {
            *self = Self::default();
        }
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Readings = Readings {
        card_load: Some(3),
        card_free: None,
        celsius: Some(40),
        watts: Some(20),
        cpu_load: Some(5),
        memory_free: Some(8 << 30),
    };
    const BORDERS: Borders =
        Borders { load: Some(50), celsius: Some(80), watts: Some(200), memory_free: Some(4 << 30) };

    /// Returns why a node rests after a machine was like this for some looks.
    fn after(readings: Readings, looks: u8, works: bool) -> Option<Rest> {
        let mut strain = Strain::default();
        (0..looks).map(|_| strain.look(&BORDERS, &readings, works)).last().flatten()
    }

    #[test]
    fn each_border_is_where_it_is_set() {
        for (readings, expected) in [
            (IDLE, None),
            (Readings { cpu_load: Some(49), ..IDLE }, None),
            (Readings { cpu_load: Some(50), ..IDLE }, Some(Rest::Busy)),
            (Readings { card_load: Some(50), cpu_load: None, ..IDLE }, Some(Rest::Busy)),
            (Readings { celsius: Some(79), ..IDLE }, None),
            (Readings { celsius: Some(80), ..IDLE }, Some(Rest::Hot)),
            (Readings { watts: Some(199), ..IDLE }, None),
            (Readings { watts: Some(200), ..IDLE }, Some(Rest::Power)),
            (Readings { memory_free: Some(4 << 30), ..IDLE }, None),
            (Readings { memory_free: Some((4 << 30) - 1), ..IDLE }, Some(Rest::Memory)),
            (Readings::default(), None),
        ] {
            assert_eq!(after(readings, TOO_MUCH, false), expected, "{readings:?}");
            assert_eq!(after(readings, TOO_MUCH - 1, false), None, "{readings:?}");
        }
    }

    #[test]
    fn what_the_nodes_own_work_takes_is_no_reason_to_rest_but_heat_is() {
        let busy = Readings { cpu_load: Some(100), card_load: Some(100), ..IDLE };
        assert_eq!(after(busy, 200, true), None);
        assert_eq!(after(Readings { celsius: Some(90), ..busy }, 5, true), Some(Rest::Hot));
    }

    #[test]
    fn a_node_works_again_after_a_calm_minute() {
        let busy = Readings { cpu_load: Some(90), ..IDLE };
        let mut strain = Strain::default();
        let mut look = |readings: &Readings| strain.look(&BORDERS, readings, false);
        for _ in 0..TOO_MUCH {
            look(&busy);
        }
        for _ in 1..CALM {
            assert_eq!(look(&IDLE), Some(Rest::Busy));
        }
        assert_eq!(look(&busy), Some(Rest::Busy), "a minute that is not calm begins anew");
        for _ in 1..CALM {
            assert_eq!(look(&IDLE), Some(Rest::Busy));
        }
        assert_eq!(look(&IDLE), None);
        assert_eq!(look(&busy), None, "a moment is no reason to rest");
    }

    #[test]
    fn a_node_whose_borders_are_lifted_works_at_once() {
        let mut strain = Strain::default();
        let hot = Readings { celsius: Some(99), ..IDLE };
        for _ in 0..TOO_MUCH {
            strain.look(&BORDERS, &hot, false);
        }
        assert_eq!(strain.look(&BORDERS, &hot, false), Some(Rest::Hot));
        assert_eq!(strain.look(&Borders::default(), &hot, false), None);
    }
}
