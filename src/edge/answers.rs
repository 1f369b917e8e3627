//! The answer to an attempt: its head, which the machine judges, and its body, which is collected or passed on as it comes.

use super::buffers::{ALWAYS, gather};
use super::calls::{Calling, Form, Heard, REPLAYED};
use super::client::Client;
use super::exchange::Exchange;
use super::forward::{self, Delivered};
use super::gate::Side;
use super::http1::{Body, Fault, Framing};
use super::line::{Line, Phase};
use super::reactor::{Loop, Turn};
use super::socket::Moved;
use crate::contract::wire::is_bodiless;
use crate::mesh::MAX_ANSWER;
use crate::mesh::call::{End, Step, Verdict};
use crate::model::{ConnectFailure, Failure};

/// Answers before the answer that are passed on; more are thrown away.
const MAX_INTERIM: u8 = 16;

impl Loop {
    /// Waits for the head of the answer. `None`: it has come, and its body is to follow.
    pub(super) fn await_head(
        &mut self,
        client: &mut Client,
        exchange: &mut Exchange,
        calling: &mut Calling,
        line: &mut Line,
    ) -> Option<Heard> {
        let mut turn = Turn::new();
        loop {
            if !line.input.is_empty() {
                match line.answer.parse(line.input.rest(), line.to_head) {
                    Ok(None) => {}
                    Ok(Some(length)) => {
                        line.input.consume(length);
                        if !line.answer.is_interim() {
                            return self.head_has_come(client, exchange, calling, line);
                        }
                        self.pass_interim(client, exchange, calling, line);
                        continue;
                    }
                    Err(fault) => return Some(Heard::Failed(protocol(fault))),
                }
            }
            if turn.is_over() {
                self.again.extend(line.owner);
                return Some(Heard::Nothing);
            }
            match line.read(&mut self.spare, line.input.len()) {
                Moved::Bytes(0) | Moved::Broken => {
                    if let Some(why) = line.refusal() {
                        return Some(Heard::Failed(Failure::Connect(ConnectFailure::Tls(why))));
                    }
                    let written = line.output.is_empty() && !line.deaf;
                    let stale = line.used && !line.answered;
                    return Some(Heard::Failed(if stale { Failure::Stale { written } } else { Failure::Reset }));
                }
                Moved::Blocked => return Some(Heard::Nothing),
                Moved::Bytes(_) => {}
            }
        }
    }

    /// Answers before the answer, such as 103, go to callers that understand them.
    fn pass_interim(&mut self, client: &mut Client, exchange: &Exchange, calling: &mut Calling, line: &Line) {
        let passed_on = matches!(calling.form, Form::Proxy { .. }) && !exchange.request.is_1_0() && line.answer.status != 100;
        if passed_on && calling.interim < MAX_INTERIM {
            calling.interim += 1;
            forward::write_interim(client.output.out(&mut self.spare), &line.answer);
        }
    }

    /// The head of the answer has come.
    fn head_has_come(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Option<Heard> {
        let status = line.answer.status;
        let upgrade = matches!(calling.form, Form::Proxy { upgrade: true, .. });
        if status == 101 && !upgrade {
            return Some(Heard::Failed(Failure::Protocol("a switch of protocols nobody asked for".into())));
        }
        let verdict = calling.machine.head(status, &line.answer.head, self.now, self.roll());
        line.body = Body::new(line.answer.framing());
        line.phase = Phase::Answering;
        match verdict {
            Verdict::Discard => {
                // What has come with the head is all that is thrown away; a line with more to come is not worth waiting for.
                let taken = line.body.pass(line.input.rest()).unwrap_or(0);
                line.input.consume(taken);
                let reusable = line.body.is_done() && is_reusable(line);
                Some(Heard::Told { reusable })
            }
            Verdict::Collect => None,
            Verdict::Deliver => {
                calling.delivering = true;
                self.progress(client, exchange, calling);
                if status == 101 {
                    self.write_head(client, exchange, calling, line, None);
                    return Some(Heard::Switched);
                }
                client.closes |= line.answer.framing() == Framing::UntilClose
                    || line.answer.framing() == Framing::Chunked && exchange.request.is_1_0()
                    || !exchange.incoming.is_done();
                self.write_head(client, exchange, calling, line, None);
                None
            }
        }
    }

    /// Writes the head of an answer to the caller; `collected`: how long its body is, which is here whole.
    fn write_head(&mut self, client: &mut Client, exchange: &Exchange, calling: &Calling, line: &Line, collected: Option<u64>) {
        let Some(underway) = &calling.attempt else { return };
        let persistence = self.persistence(client, exchange);
        let delivered = Delivered {
            member: &underway.attempt.member,
            attempts: underway.attempt.number,
            took: self.now.saturating_duration_since(underway.began),
            id: &exchange.id,
            persistence,
            collected,
            for_page: Some(exchange).filter(|exchange| exchange.cors),
            is_1_0: exchange.request.is_1_0(),
            beside_api: client.door.side == Side::Both,
        };
        forward::write_answer_head(client.output.out(&mut self.spare), &line.answer, &delivered);
    }

    /// Takes the body of the answer as it comes: collects it, or passes it on.
    pub(super) fn take_body(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Heard {
        let heard = if calling.delivering {
            self.relay(client, exchange, calling, line)
        } else if let Some(heard) = self.collect(client, exchange, calling, line).transpose() {
            heard
        } else {
            return Heard::NoRoom;
        };
        match heard {
            Ok(true) => Heard::Delivered { reusable: is_reusable(line) },
            Ok(false) => Heard::Nothing,
            Err(failure) => Heard::Failed(failure),
        }
    }

    /// Collects the body, and delivers the answer once it is whole. Answers whether it is; `None` when there is no room for it.
    fn collect(
        &mut self,
        client: &mut Client,
        exchange: &Exchange,
        calling: &mut Calling,
        line: &mut Line,
    ) -> Result<Option<bool>, Failure> {
        let mut collected = std::mem::take(&mut calling.collected);
        let mut turn = Turn::new();
        loop {
            let piece = line.body.take(line.input.rest()).map_err(protocol)?;
            let data = line.input.rest().get(piece.data.clone()).unwrap_or_default();
            if collected.len() + data.len() > MAX_ANSWER {
                return Err(Failure::TooLong(MAX_ANSWER));
            }
            if line.body.is_done() && collected.is_empty() {
                // Most answers come in one piece, and are passed on without being copied.
                self.deliver(client, exchange, calling, line, piece.data)?;
                line.input.consume(piece.taken);
                return Ok(Some(true));
            }
            let more = collected.len() + data.len();
            if more > ALWAYS && !self.shared.has_room_for(more.saturating_sub(client.charged)) {
                return Ok(None);
            }
            gather(&mut collected, data, line.body.left());
            line.input.consume(piece.taken);
            if line.body.is_done() {
                calling.collected = collected;
                self.deliver(client, exchange, calling, line, 0..0)?;
                return Ok(Some(true));
            }
            if piece.taken > 0 && !line.input.is_empty() {
                continue;
            }
            if turn.is_over() {
                self.again.extend(line.owner);
                calling.collected = collected;
                return Ok(Some(false));
            }
            match line.read(&mut self.spare, collected.len()) {
                Moved::Bytes(0) if line.body.may_end_here() => {
                    calling.collected = collected;
                    self.deliver(client, exchange, calling, line, 0..0)?;
                    return Ok(Some(true));
                }
                Moved::Bytes(0) | Moved::Broken => return Err(Failure::Reset),
                Moved::Blocked => {
                    calling.collected = collected;
                    return Ok(Some(false));
                }
                Moved::Bytes(_) => {}
            }
        }
    }

    /// Hands a collected answer to the caller: what was collected, or that part of the line's input.
    fn deliver(
        &mut self,
        client: &mut Client,
        exchange: &Exchange,
        calling: &mut Calling,
        line: &Line,
        data: std::ops::Range<usize>,
    ) -> Result<(), Failure> {
        calling.machine.body_end(Ok(()), self.now, 0);
        let Step::Done(End { result: Ok(()), report }) = calling.machine.step(self.now) else { return Err(Failure::Reset) };
        self.shared.mesh.observe(&calling.machine, &report, || calling.form.asked(exchange, client));
        let collected = std::mem::take(&mut calling.collected);
        let body = if collected.is_empty() { line.input.rest().get(data).unwrap_or_default() } else { &collected };
        self.write_head(client, exchange, calling, line, Some(body.len() as u64));
        if !is_bodiless(line.answer.status) {
            client.output.push(body, &mut self.spare);
        }
        Ok(())
    }

    /// Passes the body on, as fast as the caller takes it. Answers whether all of it has been.
    fn relay(&mut self, client: &mut Client, exchange: &Exchange, calling: &mut Calling, line: &mut Line) -> Result<bool, Failure> {
        let unchunk = line.answer.framing() == Framing::Chunked && exchange.request.is_1_0();
        let mut turn = Turn::new();
        while !turn.is_over() {
            if !line.input.is_empty() {
                let taken = if unchunk {
                    let piece = line.body.take(line.input.rest()).map_err(protocol)?;
                    client.output.push(line.input.rest().get(piece.data).unwrap_or_default(), &mut self.spare);
                    piece.taken
                } else {
                    let taken = line.body.pass(line.input.rest()).map_err(protocol)?;
                    client.output.push(line.input.rest().get(..taken).unwrap_or_default(), &mut self.spare);
                    taken
                };
                line.input.consume(taken);
                self.progress(client, exchange, calling);
            }
            if line.body.is_done() {
                break;
            }
            if !line.input.is_empty() {
                continue;
            }
            self.flush(client);
            if !client.output.is_empty() {
                return Ok(false);
            }
            match line.read(&mut self.spare, REPLAYED) {
                Moved::Bytes(0) if line.body.may_end_here() => {
                    line.body = Body::default();
                    break;
                }
                Moved::Bytes(0) | Moved::Broken => return Err(Failure::Reset),
                Moved::Blocked => return Ok(false),
                Moved::Bytes(_) => {}
            }
        }
        if !line.body.is_done() {
            // Others have a turn before there is more.
            self.again.extend(line.owner);
            return Ok(false);
        }
        calling.machine.body_end(Ok(()), self.now, 0);
        if let Step::Done(end) = calling.machine.step(self.now) {
            self.shared.mesh.observe(&calling.machine, &end.report, || calling.form.asked(exchange, client));
        }
        Ok(true)
    }
}

/// Whether a line whose answer is over may carry another request: nothing of this exchange is left on either side of it.
fn is_reusable(line: &Line) -> bool {
    line.answer.persists() && line.input.is_empty() && line.output.is_empty() && !line.deaf
}

fn protocol(fault: Fault) -> Failure {
    Failure::Protocol(match fault {
        Fault::Malformed(why) => why.into(),
        Fault::HeadTooLarge | Fault::TargetTooLong => "the head is larger than 16 KiB, or has more than 100 fields".into(),
        Fault::Version => "another version of HTTP".into(),
    })
}
