package io.nuclio.processor;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Protocol 2. */
final class SessionTest {
    private static final byte[] NOTHING = {};

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    void anEventIsAnsweredWithWhatTheHandlerSaw() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Echo.class)) {
            peer.send(Peer.event(7, "/", bytes("grüß"), "X-A", "1"));
            Peer.Frame answer = peer.next();
            Check.equal(Peer.ANSWER, answer.kind);
            Check.equal(7, answer.id);
            Check.equal(200, answer.code);
            Check.equal("grüß", answer.text());
            Check.equal("[text/plain, X-Seen, e7POSThttp{X-A=1}]", Arrays.toString(answer.table()));
        }
    }

    void framesMayBeCutAtEveryByte() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Echo.class)) {
            byte[] event = Peer.event(1, "/", bytes("cut"), "X-A", "1");
            for (int cut = 1; cut < event.length; cut++) {
                peer.send(Arrays.copyOf(event, cut));
                if (cut % 16 == 0) {
                    Thread.sleep(1); // So that it is read alone.
                }
                peer.send(Arrays.copyOfRange(event, cut, event.length));
                Check.equal("cut", peer.next().text());
            }
        }
    }

    void manyFramesOfOneReadAreHandledInOrder() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Echo.class)) {
            byte[] all = NOTHING;
            for (int id = 1; id <= 300; id++) {
                all = Peer.join(all, Peer.event(id, "/", bytes("body " + id)));
            }
            peer.send(all);
            for (int id = 1; id <= 300; id++) {
                Peer.Frame answer = peer.next();
                Check.equal(id, answer.id);
                Check.equal("body " + id, answer.text());
            }
        }
    }

    void bodiesOfAllSizesAroundTheBuffersComeBack() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Echo.class)) {
            for (int size : new int[] {0, 1, 4096, 4097, 8191, 8192, 65000, 65519, 65520, 65536, 70000, 1 << 20}) {
                byte[] body = new byte[size];
                Arrays.fill(body, (byte) size);
                peer.send(Peer.join(Peer.event(1, "/", body), Peer.event(2, "/", bytes("next"))));
                Check.equal(body, peer.next().body);
                Check.equal("next", peer.next().text());
            }
        }
    }

    void typedValuesAreDoublesTextsListsAndMaps() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Echo.class)) {
            byte[] text = {'s', 0, 0, 0, 0};
            byte[] table = NOTHING;
            for (int place = 0; place < 12; place++) {
                table = Peer.join(table, text);
            }
            byte[] seven = {'i', 8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0};
            byte[] name = {'s', 1, 0, 0, 0, 'n'};
            byte[] list = Peer.join(new byte[] {'l', 19, 0, 0, 0}, name, seven);
            byte[] map = Peer.join(new byte[] {'m', 19, 0, 0, 0}, name, seven);
            byte[] truth = {'t', 1, 0, 0, 0, 1};
            byte[] head = Peer.join(table, name, list, name, map, name, truth);
            peer.send(Peer.frame(2, 0x20, 0, 1, Peer.eventHead(3, head), NOTHING));
            Check.that(peer.next().table()[2].endsWith("{n=true}"), "the last one wins");
            head = Peer.join(table, name, list);
            peer.send(Peer.frame(2, 0x20, 0, 2, Peer.eventHead(1, head), NOTHING));
            Check.that(peer.next().table()[2].endsWith("{n=[n, 7.0]}"), "a list");
        }
    }

    void unknownOptionalFramesAreSkippedOthersAreFaults() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Echo.class)) {
            peer.send(Peer.join(
                Peer.frame(0x7f, 0x80, 0, 0, NOTHING, bytes("skip me")), Peer.frame(0x08, 0, 5, 9, NOTHING, bytes("ping"))));
            Peer.Frame pong = peer.next();
            Check.equal(Peer.PONG, pong.kind);
            Check.equal("ping", pong.text());
            Check.equal(9, pong.id);
            peer.send(Peer.frame(0x7f, 0, 0, 0, NOTHING, NOTHING));
            Peer.Frame failed = peer.next();
            Check.equal(Peer.FAILED, failed.kind);
            Check.equal(3, failed.code);
            Check.equal(1, peer.status());
        }
    }

    void impossibleFramesAreFaults() throws Exception {
        byte[] headTooLong = Peer.frame(2, 0, 0, 1, NOTHING, NOTHING);
        headTooLong[12] = 1;
        byte[] tooLarge = Peer.frame(2, 0, 0, 1, NOTHING, NOTHING);
        tooLarge[3] = 0x7f;
        byte[][] all = {
            headTooLong,
            tooLarge,
            Peer.frame(2, 0, 0, 1, new byte[31], NOTHING),
            Peer.frame(2, 0, 0, 1, Peer.eventHead(0, bytes("a\0b")), NOTHING),
            Peer.frame(2, 0, 0, 1, Peer.eventHead(60000, bytes("\0\0\0\0\0\0\0\0\0\0\0")), NOTHING),
            Peer.frame(2, 0x20, 0, 1, Peer.eventHead(0, new byte[] {'s', 9, 0, 0, 0}), NOTHING),
            Peer.frame(2, 0x20, 0, 1, Peer.eventHead(0, new byte[] {'i', 1, 0, 0, 0, 1}), NOTHING),
            Peer.frame(2, 0x01, 0, 1, Peer.eventHead(0, NOTHING), NOTHING),
            Peer.frame(4, 0, 0, 1, NOTHING, NOTHING),
        };
        for (byte[] frame : all) {
            try (Peer peer = Peer.ready(Handlers.Echo.class)) {
                peer.send(frame);
                Peer.Frame failed = peer.next();
                Check.equal(Peer.FAILED, failed.kind);
                Check.equal(3, failed.code);
                Check.equal(1, peer.status());
            }
        }
    }

    void failuresAreAnsweredWithTheirStackAndLoggedFirst() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Echo.class)) {
            peer.send(Peer.event(5, "/throw", NOTHING));
            Peer.Frame record = peer.next();
            Check.equal(Peer.LOG, record.kind);
            Check.equal(3, record.code);
            Check.equal(5, record.id);
            Check.that(record.text().contains("Handlers.java") && record.text().contains("\"worker_id\":\"3\""), record.text());
            Peer.Frame answer = peer.next();
            Check.equal(500, answer.code);
            Check.that(answer.text().startsWith("Error in handler: java.lang.IllegalStateException: on purpose\n"), answer.text());
        }
    }

    void aStreamWaitsForCreditAndTakesWhatComesMeanwhile() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Streams.class)) {
            peer.send(Peer.event(1, "/150000", NOTHING));
            Peer.Frame answer = peer.next();
            Check.equal(1, answer.flags);
            int got = 0;
            while (got < 100000) {
                Peer.Frame piece = peer.next();
                Check.that(piece.body.length <= 65536, "pieces of 64 KiB");
                got += piece.body.length;
            }
            Check.equal(100000, got);
            peer.send(Peer.join(Peer.event(2, "/5", NOTHING), Peer.credit(9, 1000), Peer.credit(1, 40000)));
            peer.send(Peer.credit(1, 40000));
            while (got < 150000) {
                got += peer.next().body.length;
            }
            Check.equal(150000, got);
            Peer.Frame end = peer.next();
            Check.equal(Peer.DATA, end.kind);
            Check.equal(1, end.flags);
            Peer.Frame second = peer.next();
            Check.equal(2, second.id);
        }
    }

    void aCancelledStreamEndsAndTheNextEventIsServed() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Streams.class)) {
            peer.send(Peer.event(1, "/900000", NOTHING));
            int got = 0;
            peer.next();
            while (got < 100000) {
                got += peer.next().body.length;
            }
            peer.send(Peer.join(Peer.cancel(8), Peer.cancel(1)));
            Peer.Frame end = peer.next();
            Check.equal(2, end.flags);
            Check.that(Handlers.Streams.ended.contains("nobody waits"), Handlers.Streams.ended);
            peer.send(Peer.join(Peer.cancel(1), Peer.event(2, "/3", NOTHING)));
            Check.equal(2, peer.next().id);
        }
    }

    void aHandlerSeesThatItIsCancelledAndOthersDoNot() throws Exception {
        try (Peer peer = Peer.ready(Handlers.Waits.class)) {
            peer.send(Peer.join(Peer.event(1, "/wait", NOTHING), Peer.event(2, "/next", NOTHING)));
            Thread.sleep(20);
            peer.send(Peer.cancel(1));
            Peer.Frame answer = peer.next();
            Check.equal("/waittrue", answer.text());
            Check.equal(0x10, answer.flags);
            answer = peer.next();
            Check.equal("/nextfalse", answer.text());
            Check.equal(0, answer.flags);
        }
    }

    void recordsShareTheAnswersWriteAndLowLevelsAreNotSent() throws Exception {
        Peer peer = new Peer();
        try (peer) {
            peer.hello();
            peer.init(Handlers.BadEnd.class.getName(), "log_level", "1");
            peer.next(Peer.READY);
            peer.send(Peer.event(1, "/", NOTHING));
            Peer.Frame record = peer.next();
            Check.equal("logged", new String(record.head, 8, record.head.length - 8, StandardCharsets.UTF_8));
            Check.equal(1, record.code);
            Check.equal(Peer.ANSWER, peer.next().kind);
            // One event asks for more.
            byte[] event = Peer.event(2, "/", NOTHING);
            event[7] = 0x10;
            peer.send(event);
            peer.next();
            Check.equal(Peer.LOG, peer.next().kind);
            Check.equal(Peer.ANSWER, peer.next().kind);
        }
    }

    void terminateClosesTheHandlerAndSaysHowThatWent() throws Exception {
        try (Peer peer = Peer.ready(Handlers.BadEnd.class)) {
            peer.send(Peer.frame(6, 0, 3, 4, new byte[4], NOTHING));
            Peer.Frame done = peer.next(Peer.DONE);
            Check.equal(1, done.code);
            Check.equal(4, done.id);
            Check.that(done.text().contains("cannot close"), done.text());
            peer.closeSending();
            Check.equal(0, peer.status());
        }
    }

    void theEndOfTheConnectionEndsTheSessionAlsoInTheMiddleOfAFrame() throws Exception {
        for (int cut : new int[] {0, 5, 16, 40}) {
            try (Peer peer = Peer.ready(Handlers.Echo.class)) {
                peer.send(Arrays.copyOf(Peer.event(1, "/", NOTHING), cut));
                peer.closeSending();
                Check.equal(0, peer.status());
            }
        }
        try (Peer peer = Peer.ready(Handlers.Waits.class)) {
            peer.send(Peer.event(1, "/wait", NOTHING));
            peer.closeSending();
            Check.equal(0, peer.status());
        }
    }

    void whatCannotBeLoadedOrPreparedIsSaid() throws Exception {
        String[][] cases = {
            {"no.such.Handler", "1", "no class \"no.such.Handler\""},
            {"java.lang.String", "1", "does not implement"},
            {Handlers.BadInit.class.getName(), "2", "cannot prepare"},
        };
        for (String[] one : cases) {
            try (Peer peer = new Peer()) {
                peer.hello();
                peer.init("module:" + one[0]);
                Peer.Frame failed = peer.next(Peer.FAILED);
                Check.equal(Integer.parseInt(one[1]), failed.code);
                Check.that(failed.text().contains(one[2]), failed.text());
                Check.equal(1, peer.status());
            }
        }
    }

    void anotherFirstFrameThanInitIsAFault() throws Exception {
        try (Peer peer = new Peer()) {
            peer.hello();
            peer.send(Peer.event(1, "/", NOTHING));
            Check.equal(3, peer.next().code);
        } catch (IOException error) {
            throw new AssertionError(error);
        }
    }
}
