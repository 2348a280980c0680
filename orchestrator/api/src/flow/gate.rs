//! Seats and who gets them. Each level has seats of its own and lends what it doesn't need; within a level, queues
//! take turns by what their requests have cost so far (start-time fair queuing), so that a flow gets its part however
//! much another sends. Times are microseconds since any one moment.

use std::collections::{HashMap, VecDeque};

use super::deal::deal;
use super::{CATCH_ALL, Config, Flow, Level, Limited, Rule};

/// What a seat is thought to be needed for before it is known, microseconds.
const GUESS: i64 = 5_000;

/// Names a request that waits or is being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It goes ahead. Who has a ticket gives it back by [`Gate::leave`].
    Goes(Ticket),
    /// It waits until [`Gate::called`] names it, or until it leaves.
    Waits(Ticket),
    /// It finds no room.
    Refused(Refusal),
}

/// Why a request finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The level has no seat, and nobody waits there.
    Seats,
    /// The queue is full.
    Queue,
}

/// How full a level is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Its name.
    pub level: String,
    /// Seats of its own; `None` for one without bound.
    pub nominal: Option<u32>,
    /// Seats in use.
    pub seats: u32,
    /// Requests that are being carried out.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// The seats of a server, and everybody who has one or waits.
#[derive(Debug, Default)]
pub struct Gate {
    rooms: Vec<Room>,
    present: HashMap<Ticket, Present>,
    called: Vec<Ticket>,
    issued: u64,
}

/// A level, at work.
#[derive(Debug)]
struct Room {
    name: String,
    /// `None` for the exempt one.
    bounds: Option<Bounds>,
    seats: u32,
    running: usize,
    waiting: usize,
    /// Cost up to which every queue has been served.
    served: i64,
    queues: Vec<Queue>,
}

#[derive(Debug, Clone)]
struct Bounds {
    limited: Limited,
    nominal: u32,
    /// Of those, seats that others may use.
    lends: u32,
    /// Seats of others that it may use.
    borrows: u32,
}

#[derive(Debug, Default)]
struct Queue {
    /// Cost of all that it has had, microseconds of one seat.
    cost: i64,
    /// Seats of those who wait and those who were let in from here.
    load: u32,
    waiting: VecDeque<Ticket>,
}

#[derive(Debug)]
struct Present {
    room: usize,
    queue: Option<usize>,
    hash: u64,
    width: u32,
    /// When it went ahead; `None` while it waits.
    since: Option<i64>,
}

impl Gate {
    /// `seats` are divided among the levels of `config`. Who is present stays.
    pub fn arrange(&mut self, seats: u32, config: &Config, now: i64) {
        let shares = |level: &Level| match &level.rule {
            Rule::Exempt => 0,
            Rule::Limited(limited) => limited.shares,
        };
        let all: u64 = config
            .levels
            .iter()
            .map(|level| u64::from(shares(level)))
            .sum();
        for level in &config.levels {
            let bounds = match &level.rule {
                Rule::Exempt => None,
                Rule::Limited(limited) => Some(Bounds::of(limited, seats, all)),
            };
            match self.rooms.iter_mut().find(|room| room.name == level.name) {
                Some(room) => room.bounds = bounds,
                None => self.rooms.push(Room::new(&level.name, bounds)),
            }
        }
        // Places in `rooms` stay what they are: one whose level is gone serves whom it has, and lends nothing.
        let gone = |name: &str| config.levels.iter().all(|level| level.name != name);
        for place in 0..self.rooms.len() {
            let room = &mut self.rooms[place];
            if let Some(bounds) = room.bounds.as_mut().filter(|_| gone(&room.name)) {
                bounds.lends = 0;
            }
            self.deal_anew(place);
        }
        self.call(now);
    }

    /// Those who wait find queues among as many as there are now.
    fn deal_anew(&mut self, place: usize) {
        let room = &mut self.rooms[place];
        let count = room.queue_count();
        if count == room.queues.len() {
            return;
        }
        let old = std::mem::take(&mut room.queues);
        room.queues.resize_with(count, Queue::default);
        for queue in &mut room.queues {
            queue.cost = room.served;
        }
        room.waiting = 0;
        let mut waiting: Vec<Ticket> = old.into_iter().flat_map(|queue| queue.waiting).collect();
        waiting.sort_unstable();
        for present in self.present.values_mut().filter(|one| one.room == place) {
            present.queue = None;
        }
        for ticket in waiting {
            let Some(present) = self.present.get_mut(&ticket) else {
                continue;
            };
            let chosen = room.choose(present.hash);
            present.queue = Some(chosen);
            room.put(chosen, ticket, present.width);
        }
    }

    /// A request of `flow` that takes so many seats comes.
    pub fn enter(&mut self, flow: &Flow, width: u32, now: i64) -> Entry {
        let Some(place) = self.place(&flow.level.0) else {
            return Entry::Refused(Refusal::Seats);
        };
        let room = &mut self.rooms[place];
        // What is wider than the level would wait for ever.
        let bounds = room.bounds.as_ref();
        let width = bounds.map_or(0, |bounds| width.clamp(1, bounds.nominal.max(1)));
        let ticket = Ticket(self.issued);
        let mut present = Present {
            room: place,
            queue: None,
            hash: flow.hash,
            width,
            since: None,
        };
        let length = room.queue_length();
        if length == 0 {
            if !self.fits(place, width) {
                return Entry::Refused(Refusal::Seats);
            }
            self.seat(&mut present, now);
        } else {
            let chosen = room.choose(flow.hash);
            if room.queues[chosen].waiting.len() >= length {
                return Entry::Refused(Refusal::Queue);
            }
            present.queue = Some(chosen);
            room.put(chosen, ticket, width);
        }
        self.issued += 1;
        let waits = present.since.is_none();
        self.present.insert(ticket, present);
        if waits {
            self.call_in(place, now);
        }
        // Its own call needs nobody to hear it.
        if waits && !self.take_call(ticket) {
            return Entry::Waits(ticket);
        }
        Entry::Goes(ticket)
    }

    /// Who was called since this was asked last: they go ahead.
    pub fn called(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.called)
    }

    /// The request has ended, or waits no longer.
    pub fn leave(&mut self, ticket: Ticket, now: i64) {
        let Some(present) = self.present.remove(&ticket) else {
            return;
        };
        self.take_call(ticket);
        let room = &mut self.rooms[present.room];
        let queue = present.queue.and_then(|queue| room.queues.get_mut(queue));
        match present.since {
            Some(since) => {
                room.seats -= present.width;
                room.running -= 1;
                if let Some(queue) = queue {
                    let took = (now - since).max(0);
                    queue.load -= present.width;
                    queue.cost += (took - GUESS) * i64::from(present.width);
                }
            }
            None => {
                room.waiting -= 1;
                if let Some(queue) = queue {
                    queue.load -= present.width;
                    queue.waiting.retain(|one| *one != ticket);
                }
            }
        }
        self.call(now);
    }

    /// How full every level is.
    pub fn loads(&self) -> Vec<Load> {
        let load = |room: &Room| Load {
            level: room.name.clone(),
            nominal: room.bounds.as_ref().map(|bounds| bounds.nominal),
            seats: room.seats,
            running: room.running,
            waiting: room.waiting,
        };
        self.rooms.iter().map(load).collect()
    }

    fn place(&self, level: &str) -> Option<usize> {
        let named = |name: &str| self.rooms.iter().position(|room| room.name == name);
        named(level).or_else(|| named(CATCH_ALL))
    }

    fn take_call(&mut self, ticket: Ticket) -> bool {
        let before = self.called.len();
        self.called.retain(|one| *one != ticket);
        self.called.len() < before
    }

    /// Calls whoever fits now, at every level.
    fn call(&mut self, now: i64) {
        for place in 0..self.rooms.len() {
            self.call_in(place, now);
        }
    }

    fn call_in(&mut self, place: usize, now: i64) {
        while self.rooms[place].waiting > 0
            && let Some(next) = self.rooms[place].next()
            && let Some(ticket) = self.rooms[place].queues[next].waiting.front().copied()
            && let Some(width) = self.present.get(&ticket).map(|one| one.width)
            && self.fits(place, width)
            && let Some(mut present) = self.present.remove(&ticket)
        {
            let room = &mut self.rooms[place];
            let queue = &mut room.queues[next];
            queue.waiting.pop_front();
            room.served = room.served.max(queue.cost);
            queue.cost += GUESS * i64::from(width);
            room.waiting -= 1;
            self.seat(&mut present, now);
            self.present.insert(ticket, present);
            self.called.push(ticket);
        }
    }

    fn seat(&mut self, present: &mut Present, now: i64) {
        let room = &mut self.rooms[present.room];
        room.seats += present.width;
        room.running += 1;
        present.since = Some(now);
    }

    /// Whether so many more seats may be taken: a level's own at any time, others' while they leave them free. So a
    /// level never waits for those who borrowed from it, and there may be more at work than there are seats, by what
    /// is lent at most.
    fn fits(&self, place: usize, width: u32) -> bool {
        let room = &self.rooms[place];
        let Some(bounds) = room.bounds.as_ref().filter(|_| room.seats > 0) else {
            return true;
        };
        let wanted = room.seats + width;
        let Some(borrowed) = wanted.checked_sub(bounds.nominal).filter(|more| *more > 0) else {
            return true;
        };
        let others = self.rooms.iter().enumerate();
        let others = others.filter_map(|(at, room)| (at != place).then_some(room));
        let (free, lent) = others.fold((0, 0), |(free, lent), room| {
            let (mine, over) = room.spare();
            (free + mine, lent + over)
        });
        borrowed <= bounds.borrows && lent + borrowed <= free
    }
}

impl Bounds {
    fn of(limited: &Limited, seats: u32, shares: u64) -> Self {
        let part = u64::from(seats) * u64::from(limited.shares);
        let nominal = u32::try_from(part.div_ceil(shares.max(1))).unwrap_or(u32::MAX);
        let percent = |number: u32| {
            u32::try_from(u64::from(nominal) * u64::from(number) / 100).unwrap_or(u32::MAX)
        };
        Self {
            limited: limited.clone(),
            nominal,
            lends: percent(limited.lendable),
            borrows: limited.borrows.map_or(seats, percent),
        }
    }
}

impl Room {
    fn new(name: &str, bounds: Option<Bounds>) -> Self {
        Self {
            name: name.to_owned(),
            bounds,
            seats: 0,
            running: 0,
            waiting: 0,
            served: 0,
            queues: Vec::new(),
        }
    }

    fn queue_count(&self) -> usize {
        let queues = self
            .bounds
            .as_ref()
            .and_then(|bounds| bounds.limited.queues);
        // Whoever waits when a level waits no more goes on waiting.
        queues.map_or(usize::from(self.waiting > 0), |queues| queues.count)
    }

    fn queue_length(&self) -> usize {
        let queues = self
            .bounds
            .as_ref()
            .and_then(|bounds| bounds.limited.queues);
        queues.map_or(0, |queues| queues.length)
    }

    /// The shortest queue of a flow's hand.
    fn choose(&self, hash: u64) -> usize {
        let queues = self
            .bounds
            .as_ref()
            .and_then(|bounds| bounds.limited.queues);
        let hand = deal(
            hash,
            self.queues.len(),
            queues.map_or(1, |queues| queues.hand),
        );
        let load = |card: &usize| {
            let queue = &self.queues[*card];
            (queue.waiting.len(), queue.load)
        };
        hand.into_iter().min_by_key(load).unwrap_or(0)
    }

    fn put(&mut self, queue: usize, ticket: Ticket, width: u32) {
        let queue = &mut self.queues[queue];
        if queue.waiting.is_empty() {
            // Who was away has no claim to what others had meanwhile.
            queue.cost = queue.cost.max(self.served);
        }
        queue.load += width;
        queue.waiting.push_back(ticket);
        self.waiting += 1;
    }

    /// The queue whose turn it is.
    fn next(&self) -> Option<usize> {
        let waiting = (0..self.queues.len()).filter(|at| !self.queues[*at].waiting.is_empty());
        waiting.min_by_key(|at| self.queues[*at].cost)
    }

    /// Own seats that others may use now, and others' that it uses.
    fn spare(&self) -> (u32, u32) {
        let Some(bounds) = &self.bounds else {
            return (0, 0);
        };
        let unused = bounds.nominal.saturating_sub(self.seats);
        (
            unused.min(bounds.lends),
            self.seats.saturating_sub(bounds.nominal),
        )
    }
}
