<?php

// PHPMailer as its own examples begin, without a login and without a word about TLS.
require getenv('PHPMAILER_AUTOLOAD');

$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = '127.0.0.1';
$mail->Port = (int) getenv('PORT');
$mail->setFrom('app@example.com', 'App');
$mail->addAddress('you@example.com');
$mail->Subject = 'PHPMailer';
$mail->Body = 'It works';
$mail->send();
