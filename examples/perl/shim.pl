# A shim for handlers in Perl, as small as one can be: the worked example of docs/adding-a-language.md.
# nuclio-shim-protocol: 2
use strict;
use warnings;
use File::Spec ();
use JSON::PP ();
use Time::HiRes ();

use constant { START => 0x01, EVENT => 0x02, CONTROL => 0x06, HELLO => 0x81, READY => 0x82, ANSWER => 0x83,
    LOG => 0x86, CONTROL_DONE => 0x87, FAILED => 0x8f };
my @levels = qw(debug info warn error);

# Signals: a terminal's interrupt is the processor's business, the end comes between events.
my ($busy, $ending) = (0, 0);
@SIG{qw(INT PIPE)} = ('IGNORE', 'IGNORE');
$SIG{TERM} = sub { $ending = 1; exit 0 unless $busy };

open(my $socket, '+<&=', $ENV{NUCLIO_SHIM_FD}) or die "no socket: $!";
binmode $socket;
my ($in, $out) = ('', '');

# ---- frames --------------------------------------------------------------------------------------------------------

# All that has been gathered, in one write.
sub flush_frames {
    while (length $out) {
        my $written = syswrite($socket, $out) // ($!{EINTR} ? 0 : exit 0);
        substr($out, 0, $written, '');
    }
}

sub add_frame {
    my ($kind, $flags, $code, $id, $head, $body) = @_;
    $out .= pack('VCCvVV', length($head) + length($body), $kind, $flags, $code, $id, length $head) . $head . $body;
}

# Whole frames out of one buffer. The end of file is the end.
sub next_frame {
    while (1) {
        if (length $in >= 16) {
            my ($size, $kind, $flags, $code, $id, $head) = unpack('VCCvVV', $in);
            if (length $in >= 16 + $size) {
                my $payload = substr($in, 16, $size);
                substr($in, 0, 16 + $size, '');
                return ($kind, $flags, $code, $id, substr($payload, 0, $head), substr($payload, $head));
            }
        }
        my $read = sysread($socket, $in, 1 << 16, length $in);
        exit 0 if defined $read ? !$read : !$!{EINTR};
    }
}

sub table { join("\0", @_) }

# Says why there will be no answers.
sub give_up {
    my ($code, $text) = @_;
    add_frame(FAILED, 0, $code, 0, '', $text);
    flush_frames();
    exit 1;
}

# ---- what handlers use ---------------------------------------------------------------------------------------------

my $current = 0;    # the event in work, for its records

sub write_log {
    my ($level, $message, %fields) = @_;
    utf8::encode(my $text = $message);
    my $more = %fields ? JSON::PP->new->utf8->canonical->encode(\%fields) : '';
    add_frame(LOG, 0, $level, $current, pack('q<', Time::HiRes::time() * 1e6) . $text, $more);
    flush_frames() if $level >= 2 || !$busy;    # Others go out with the answer.
}

package Context {
    sub debug { shift; main::write_log(0, @_) }
    sub info  { shift; main::write_log(1, @_) }
    sub warn  { shift; main::write_log(2, @_) }
    sub error { shift; main::write_log(3, @_) }
}

# ---- the life of a worker ------------------------------------------------------------------------------------------

$out = 'NSH2';
add_frame(HELLO, 0, 2, 0, table(language => 'perl', version => sprintf('%vd', $^V), sdk => 'none', protocol_min => 2,
    protocol_max => 2, capabilities => 'control', max_inflight => 1, prefetch => 8, pid => $$), '');
flush_frames();

my ($kind, $flags, $version, undef, $told) = next_frame();
give_up(3, 'INIT of version 2 expected') unless $kind == START && $version == 2;
my %init = split(/\0/, $told, -1);
my ($file, $name) = split(/:/, $init{handler});
my $context = bless { worker_id => $init{worker_id}, function_name => $init{function_name} }, 'Context';
my $path = File::Spec->rel2abs("$init{handler_dir}/$file"); # `do` looks up a relative one in @INC.
unless (defined do $path) { give_up(1, "cannot load $path: " . ($@ || $!)) if $@ || $! }
my $handler = main->can($name || 'handler') or give_up(1, "there is no sub $name in $path");
if (my $init_context = main->can('init_context')) { eval { $init_context->($context); 1 } or give_up(2, $@) }
add_frame(READY, 0, 0, 0, table(handler_async => 0, max_inflight => 1), '');
flush_frames();

while (1) {
    my ($kind, $flags, $code, $id, $head, $body) = next_frame();
    if ($kind == EVENT) { $busy = 1; answer_event($id, $head, $body); $busy = 0; exit 0 if $ending }
    elsif ($kind == CONTROL) { add_frame(CONTROL_DONE, 0, 0, $id, '', ''); flush_frames() }
    elsif (!($flags & 0x80)) { give_up(3, sprintf('frame of unknown kind %#x', $kind)) }
}

sub answer_event {
    my ($id, $head, $body) = @_;
    my (undef, undef, undef, undef, undef, $headers) = unpack('q<q<l<l<VvV', $head);
    my @texts = split(/\0/, substr($head, 32), -1);
    my %event = (body => $body, id => $texts[0], method => $texts[1], path => $texts[2]);
    $event{headers} = { @texts[12 .. 11 + 2 * $headers] };
    $current = $id;
    my $begun = Time::HiRes::time();
    my $answer = eval { $handler->($context, \%event) };
    my $error = $@;
    write_log(3, "the handler died: $error") if $error;
    $current = 0;
    $answer = { body => $answer // '' } unless ref $answer;
    $answer = { body => $error, failed => 1 } if $error;
    utf8::encode(my $text = $answer->{body}) if utf8::is_utf8($answer->{body});
    my @pairs = @{ $answer->{headers} || [] };
    my $micros = int((Time::HiRes::time() - $begun) * 1e6);
    add_frame(ANSWER, $answer->{failed} ? 0x02 : 0, $answer->{status} || 0, $id,
        pack('Vvv', $micros, @pairs / 2, 0) . table($answer->{content_type} || '', @pairs), $text // $answer->{body});
    flush_frames();
}
