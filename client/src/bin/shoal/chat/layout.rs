//! Where everything stands on the screen.

use ratatui::layout::Rect;

/// Below so many columns or rows there is no room, and that is all that is said.
pub(super) const COLUMNS_MIN: u16 = 40;
pub(super) const ROWS_MIN: u16 = 10;
/// From so many columns on, list and conversation stand side by side.
const SIDE_BY_SIDE: u16 = 64;

/// How many lines the parts would like to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) bar: usize,
    pub(super) caution: usize,
    pub(super) notice: usize,
    pub(super) draft: usize,
    /// Nothing is open, or one looks at the list.
    pub(super) list_first: bool,
}

/// The parts. In a narrow terminal either `list` or the conversation is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Areas {
    pub(super) bar: Rect,
    pub(super) caution: Rect,
    /// Everything between the top and the notice; boxes stand over it.
    pub(super) body: Rect,
    pub(super) list: Rect,
    /// Between list and conversation.
    pub(super) edge: Rect,
    pub(super) title: Rect,
    pub(super) messages: Rect,
    pub(super) rule: Rect,
    pub(super) draft: Rect,
    pub(super) notice: Rect,
    pub(super) hint: Rect,
}

impl Areas {
    /// `None`: the terminal is too small.
    pub(super) fn of((columns, rows): (u16, u16), wish: Wish) -> Option<Self> {
        if columns < COLUMNS_MIN || rows < ROWS_MIN {
            return None;
        }
        let most = |wish: usize, max: u16| u16::try_from(wish).unwrap_or(max).min(max);
        let small = rows < 16;
        let bar = most(wish.bar, if small { 3 } else { 4 }).max(1);
        let caution = most(wish.caution, if small { 1 } else { 3 });
        let notice = most(wish.notice, if small { 1 } else { 3 });
        let draft = most(wish.draft, if small { 2 } else { rows / 4 }).max(1);
        let line = |top: u16, height: u16| Rect::new(0, top, columns, height);
        let top = bar + caution;
        let bottom = rows - 1 - notice;
        let body = line(top, bottom - top);
        let side_by_side = columns >= SIDE_BY_SIDE;
        let list_width = match (side_by_side, wish.list_first) {
            (true, _) => (columns / 3).clamp(22, 34),
            (false, true) => columns,
            (false, false) => 0,
        };
        let list = Rect { width: list_width, ..body };
        let edge = Rect { x: list_width, width: u16::from(side_by_side), ..body };
        let left = list_width + edge.width;
        let talk = Rect { x: left, width: columns - left, ..body };
        // a row for the title, one for the rule, one at least for messages
        let draft = if talk.width == 0 { 0 } else { draft.min(talk.height.saturating_sub(3)) };
        let row = |y: u16, height: u16| Rect { y, height, ..talk };
        Some(Self {
            bar: line(0, bar),
            caution: line(bar, caution),
            body,
            list,
            edge,
            title: row(talk.y, 1),
            messages: row(talk.y + 1, talk.height.saturating_sub(2 + draft)),
            rule: row((talk.y + talk.height).saturating_sub(draft + 1), 1),
            draft: row((talk.y + talk.height).saturating_sub(draft), draft),
            notice: line(bottom, notice),
            hint: line(rows - 1, 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_message_whatever_is_to_be_said() {
        let much = Wish { bar: 9, caution: 9, notice: 9, draft: 99, list_first: false };
        for rows in ROWS_MIN..60 {
            for columns in [COLUMNS_MIN, 63, 64, 80, 120, 400] {
                for list_first in [false, true] {
                    let areas = Areas::of((columns, rows), Wish { list_first, ..much }).unwrap();
                    let alone = columns < SIDE_BY_SIDE;
                    assert_eq!(areas.list.width == 0, alone && !list_first);
                    assert!(alone && list_first || areas.messages.height >= 1 && areas.draft.height >= 1, "{areas:?}");
                    assert!(areas.list.height >= 3 && areas.hint.bottom() == rows, "{areas:?}");
                    assert_eq!(areas.draft.bottom(), areas.notice.top());
                }
            }
        }
        assert_eq!(Areas::of((39, 24), much), None);
        assert_eq!(Areas::of((80, 9), much), None);
    }
}
