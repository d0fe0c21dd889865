use strict;
use warnings;

sub handler {
    my ($context, $event) = @_;
    $context->info('called', path => $event->{path});
    die "no such page\n" if $event->{path} eq '/missing';
    return { status => 201, body => 'Hello, ' . ($event->{body} || 'world'), headers => ['X-Language', 'perl'] };
}

1;
