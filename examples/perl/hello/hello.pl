use strict;
use warnings;

sub handler {
    my ($context, $event) = @_;
    $context->info('called', path => $event->{path});
    die "no such page\n" if $event->{path} eq '/missing';
    my $name = length $event->{body} ? $event->{body} : 'world';
    return { status => 201, body => "Hello, $name", headers => ['X-Language', 'perl'] };
}

1;
